"""``qmedsam-train teach``: a few labelled cases of one's own to a model that knows these structures better."""
