"""A whole training set in one buffer, drawn where the network is: the way to long trainings.

A loader of processes draws some tens of frames a second and core; here thousands are drawn at a time with the framework's own
operations, on whatever device the network is trained on. What is drawn is what the engine's walks ask (:mod:`.prompts`),
with the slices before and behind as colours, and corrected by simulated strokes (:mod:`.corrections`).
"""
