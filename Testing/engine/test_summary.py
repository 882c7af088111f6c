"""Means and tables of made-up rows, worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
from qmedsam.evaluation.summary import Score, choose, markdown, scores_csv, summarize
from qmedsam.files.tables import finite


def score(source="a", modality="CT", dsc=0.5, ellipse=0.4, share=0.1, kind="volume", nsd=0.6, name="c") -> Score:
    return Score(name, name, 1, "", 1, source, modality, kind, 1000, share, dsc, nsd, ellipse, 0.9, 0.1)


def test_every_source_counts_the_same_whatever_its_size() -> None:
    rows = [score("large", dsc=0.9, ellipse=0.5)] * 98 + [score("small", dsc=0.3, ellipse=0.5)] * 2 + [score("b", "MR", 0.6)]
    summary = summarize(rows, ())["volume"]
    assert summary["mean"]["dsc"] == pytest.approx((0.9 + 0.3 + 0.6) / 3)
    ct, mr = summary["modalities"]
    assert (ct["modality"], ct["dsc"], ct["sources"], ct["prompts"]) == ("CT", pytest.approx(0.6), 2, 100)
    assert ct["gain"] == pytest.approx(0.1)
    assert mr["dsc"] == 0.6 and all(map(math.isnan, mr["dsc_interval"]))
    assert {(s["source"], s["prompts"]) for s in summary["sources"]} == {("large", 98), ("small", 2), ("b", 1)}


def test_the_same_data_set_under_two_modalities_is_two_sources() -> None:
    summary = summarize([score("ibsi", "PET", 0.9), score("ibsi", "MR", 0.5), score("ibsi", "MR", 0.5)])["volume"]
    assert summary["mean"]["sources"] == 2 and summary["mean"]["dsc"] == pytest.approx(0.7)


def test_volumes_and_pictures_are_never_averaged_with_each_other() -> None:
    rows = [score("a", dsc=0.4)] + [score(f"p{n}", kind="picture", dsc=0.9) for n in range(40)] + [score("a", kind="slice")]
    summary = summarize(rows)
    assert summary["headline"] == "volume" and summarize(rows[1:])["headline"] == "slice"
    assert [summary[k]["mean"]["dsc"] for k in ("volume", "slice", "picture")] == pytest.approx([0.4, 0.5, 0.9])
    page = markdown(summary)
    assert "3D boxes on volumes: DSC 0.400" in page.splitlines()[2]
    assert page.index("## 3D boxes on volumes") < page.index("## Single slices of volumes") < page.index("## Pictures")
    names = [name for name, _ in choose(rows)]
    assert len(names) == 9 and names[0] == "3D boxes on volumes: best" and names[-1] == "pictures: worst"


def test_a_case_of_forty_labels_that_outweighs_its_source_is_named() -> None:
    rows = [score(name="whole-body", dsc=0.4)] * 40 + [score(name=f"p{n}", dsc=0.9) for n in range(8)] + [score("b")] * 40
    summary = summarize(rows)
    assert [s["heaviest"] for s in summary["volume"]["sources"]] == [{"case": "whole-body", "prompts": 40}, None]
    assert markdown(summary).count("40 of its 48 prompts are of 'whole-body'") == 1
    assert "mostly that of one case" not in markdown(summarize(rows[31:]))


def test_small_targets_have_a_mean_of_their_own() -> None:
    rows = [score(share=0.009, dsc=0.2), score(share=0.011, dsc=0.8), score(share=0.002, dsc=0.4)]
    assert summarize(rows)["volume"]["small"]["dsc"] == pytest.approx(0.3)
    assert summarize(rows[1:2])["volume"]["small"] is None


def test_a_summary_of_nothing_and_of_unpromptable_sources_alone() -> None:
    assert summarize([]) == {"headline": None}
    summary = summarize([score("fives", dsc=0.1)])
    assert summary["volume"]["mean"] is None and summary["volume"]["mean_all"]["dsc"] == 0.1
    assert "cannot prompt" in markdown(summary)


def test_the_page_shows_the_numbers() -> None:
    page = markdown(summarize([score(dsc=0.812), score(dsc=0.912, name="d")]))
    assert "| CT | a | 2 | 2 | 0.862 | 0.812 to 0.912 | 0.862 | 0.600 | 0.400 | +0.462 |" in page


def test_missing_numbers_are_null_in_json_and_left_out_of_means() -> None:
    summary = summarize([score(nsd=math.nan), score(nsd=0.5)])
    assert summary["volume"]["mean"]["nsd"] == 0.5
    text = json.dumps(finite({"a": math.nan, "b": [1.0, math.inf], "c": "x"}), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [1.0, None], "c": "x"}


def test_csv_has_the_columns_of_the_issue() -> None:
    head, row = scores_csv([score(dsc=1 / 3)]).splitlines()
    assert {"case", "label", "source", "modality", "dsc", "nsd", "ellipse_dsc", "seconds"} <= set(head.split(","))
    assert dict(zip(head.split(","), row.split(",")))["dsc"] == "0.33333"


def test_the_sheet_shows_different_sources_and_no_row_twice() -> None:
    rows = [score(f"s{n % 4}", dsc=n / 40, name=str(n)) for n in range(40)] + [score("fives", dsc=0.0)]
    best, median, worst = choose(rows, ("fives",), columns=4)
    assert best[1] == [39, 38, 37, 36] and worst[1] == [0, 1, 2, 3]
    assert {abs(rows[n].dsc - 0.4875) <= 0.06 for n in median[1]} == {True}
    assert not set(best[1]) & set(worst[1]) and not set(median[1]) & set(best[1] + worst[1])
    same = [score("one", dsc=n / 40) for n in range(30)]
    assert choose(same, (), columns=4)[0][1] == [29, 28, 27, 26]
    assert [len(chosen) for _, chosen in choose(rows[:1], ())] == [1, 0, 0]
