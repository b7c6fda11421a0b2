"""The report page: it shows what it was given, safely, and needs nothing but itself."""

from __future__ import annotations

import base64
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from audio import belief_report as beliefs_on
from audio import markup, plots, report, search_plots
from audio import search_report as searched
from audio.page import page as whole_page
from audio.page import write_report

HOSTILE = "<script>alert('x')</script> & \"Zug\" 🚂 日本 \x00\x1b \udcff"
NAN = float("nan")


def page(*sections: report.Section) -> str:
    return whole_page("A run", sections)


def figures(markup: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(f) for f in re.findall(r"<svg.*?</svg>", markup, re.DOTALL)]


class Reader(HTMLParser):
    """Collects text, links and tags, and holds the page to closing what it opens."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.words = ""
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [given[k] or "" for k in ("src", "href", "xlink:href") if k in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "img":
            self.images.append(given)
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def trial(n: int, score: float | None, phase: str = "agent", **more: Any) -> dict[str, Any]:
    state = "failed" if score is None else "complete"
    values = {"n_mels": 32 + n, "top_db": None}
    return {"number": n, "score": score, "state": state, "values": values, "seconds": 3.0,
            "phase": phase, **more}  # fmt: skip


def confusion(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    counts = np.diag(rng.integers(5, 20, n)) + (rng.random((n, n)) < 0.1)
    return {"labels": [f"class {i}" for i in range(n)], "counts": counts.tolist()}


def everything(name: str = "dog", x: float = 0.4321) -> list[report.Section]:
    """Return one of each section, with `name` wherever text goes and `x` wherever a number."""
    estimate = {"value": x, "low": x - 0.1, "high": x + 0.1}
    values = {name: 3, "n_mels": 64}
    clip = np.arange(24, dtype=np.uint8).reshape(4, 6)
    matrix = {"labels": [name, "cat"], "counts": [[7, 2], [0, 9]]}
    epoch = {"epoch": 1, "train_loss": x, "validation_loss": x, "validation_accuracy": x,
             "learning_rate": x, "seconds": x}  # fmt: skip
    score = {"precision": x, "recall": x, "f1": x, "support": 9}
    return [
        report.headline(f"{name} was right", name),
        searched.recommendation(
            name, [{"setting": name, "default": x, "recommended": name}], f"melbandit {name}"
        ),
        report.metrics_table({"split": name, "n": 18, "accuracy": estimate, "macro_f1": estimate,
                              "per_class": {name: score}, "confusion": matrix}),
        report.confusion_heatmap(matrix),
        report.worst_mistakes([{"path": name, "label": name, "predicted": name, "probability": x}]),
        report.spectrogram_gallery([(name, name, clip)], duration_s=1.5, f_max_hz=8000),
        report.corpus_table([{"split": name, "label": name, "clips": 12, "groups": 5}]),
        report.learning_curves([epoch, {**epoch, "epoch": 2}]),
        searched.reward_curve([trial(0, x, "default", values=values), trial(1, x, values=values)]),
        beliefs_on.beliefs([{"name": name, "importance": x, "default": name, "recommended": 3,
                         "values": [{"value": name, "mean": x, "sd": x, "n": 41}]}]),
        beliefs_on.pair_heatmaps([{"a": name, "b": name, "a_values": [name],
                                   "b_values": [name, None], "mean": [[x, NAN]]}]),
        searched.finalists_table([{"values": values, "name": name, "scores": [x, x], "mean": x,
                                 "standard_error": x}]),
        report.settings_table({name: {name: name, "n_mels": 64}}, {name: {"n_mels": 80}}),
        report.provenance({"command": name, "versions": {name: name}, "seed": 77}),
        beliefs_on.importance(
            [{"name": name, "alone": x, "together": x + 0.1}],
            [{"a": name, "b": name, "share": x}], foretells=x, words=[name],
        ),
        searched.trial_curves([{"number": 3, "kind": kind, "points": [(1, x), (2, x)]}
                               for kind in ("best", "default", "pruned", "other")], title=name),
        searched.evidence([{"seed": name, "recommended": x, "default": x - 0.1}],
                          {"mean": 0.1, "low": 0.05, "high": 0.15}, names=(name, "default")),
        searched.costs([(name, name)], [{"name": name, "values": [
            {"value": name, "mean": x, "low": x - 0.1, "high": x + 0.1, "seconds": 61, "n": 9}]}],
            words=name),
    ]  # fmt: skip


def test_the_page_needs_nothing_but_itself() -> None:
    markup = page(*everything())
    reader = Reader(markup)
    assert reader.links
    for link in reader.links:
        assert link.startswith(("#", "data:image/png;base64,")), link
        assert not link.startswith("#") or link[1:] in reader.ids
    assert len(set(reader.ids)) == len(reader.ids)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    assert "http://" not in markup
    assert "https://" not in markup
    assert "url(" not in markup
    assert all(image["alt"] for image in reader.images)
    assert reader.tags.count("caption") == reader.tags.count("table")


def test_hostile_labels_are_shown_letter_by_letter() -> None:
    markup = page(*everything(HOSTILE))
    markup.encode("utf-8")  # the lone surrogate is gone
    reader = Reader(markup)
    assert "script" not in reader.tags
    shown = HOSTILE.replace("\x00\x1b \udcff", "\ufffd\ufffd \ufffd")
    assert reader.words.count(shown) > 15
    for section in everything(HOSTILE):
        if section.title not in {"", "Training"}:  # an epoch has no name
            assert shown in Reader(page(section)).words, section.title


def test_every_figure_is_valid_xml_with_a_text_alternative() -> None:
    for section in [*everything(HOSTILE), report.confusion_heatmap(confusion(50))]:
        for figure in figures(section.body):
            assert figure.attrib["role"] == "img"
            assert figure.attrib["aria-label"]
            assert not re.search(r"nan|inf\b|None", " ".join(figure.itertext()))
            for node in figure.iter():
                assert "nan" not in node.attrib.get("d", ""), node.attrib
    assert len(figures(page(*everything()))) == 13


def test_every_number_given_appears() -> None:
    words = [Reader(page(section)).words for section in everything()]
    for shown in words[2], words[4], *words[7:12]:
        assert "0.432" in shown or "43.2" in shown
    for i, number in [(1, "0.4321"), (2, "33.2 to 53.2"), (2, "18"), (3, "7"), (3, "2"),
                      (3, "77.8%"), (5, "1.5 s"), (5, "8 kHz"), (6, "12"), (6, "5"), (9, "41"),
                      (12, "64"), (12, "80"), (13, "77"), (14, "43.2%"), (14, "10.0%"),
                      (15, "trial 3"), (15, "0.432"), (16, "0.4321"), (16, "0.3321"),
                      (16, "+0.100"), (16, "+0.050 to +0.150"), (17, "0.43×"), (17, "1 min"),
                      ]:  # fmt: skip
        assert number in words[i].replace("\xa0", ""), (i, number)


@pytest.mark.parametrize("x", [NAN, None, math.inf])
def test_a_missing_number_is_an_en_dash(x: Any) -> None:
    assert markup.number(x) == markup.percent(x) == markup.duration(x) == "–"
    sections = [
        report.metrics_table({"split": "test", "n": x, "macro_f1": {"value": x, "low": x},
                              "accuracy": {"value": x, "low": x, "high": x},
                              "per_class": {"dog": {"precision": x}}}),
        report.worst_mistakes([{"path": "a.wav", "label": "b", "probability": x}]),
        report.corpus_table([{"split": "train", "label": "dog", "clips": x, "groups": 2}]),
        report.learning_curves([{"epoch": 1, "train_loss": 0.5}, {"epoch": x, "train_loss": x}]),
        searched.reward_curve([trial(0, 0.5), {**trial(1, x), "seconds": x, "values": None}]),
        beliefs_on.beliefs([{"name": "a", "values": [{"value": 1, "mean": x, "sd": x, "n": 0},
                                                 {"value": 2, "mean": 0.5, "sd": x, "n": 1}]}]),
        beliefs_on.pair_heatmaps([{"a": "a", "b": "b", "a_values": [1], "b_values": [1],
                               "mean": [[x]]}]),
        searched.finalists_table([{"name": "default", "scores": [x], "mean": x}]),
        searched.evidence([{"seed": 1, "recommended": x, "default": 0.5}], None, names=("a", "b")),
        searched.costs([], [{"name": "a", "values": [
            {"value": 1, "mean": x, "low": x, "high": x, "seconds": x, "n": 0}]}]),
        beliefs_on.pair_heatmaps([{"a": "a", "b": "b", "a_values": [1], "b_values": [1, 2],
                                   "mean": [[x, 0.5]], "sd": [[x, x]], "share": 0.2,
                                   "interaction": [[x, x]], "interaction_sd": [[x, x]]}]),
        report.confusion_heatmap({"labels": ["a", "b"], "counts": [[0, 0], [0, 0]]}),
    ]  # fmt: skip
    for section in sections:
        words = Reader(page(section)).words.split("</style>")[-1]
        if section is not sections[-1]:
            assert "–" in words, section.title
        assert "nan" not in words.lower()
        figures(section.body)


def test_empty_inputs_say_so_and_do_not_fail() -> None:
    for section in (
        report.spectrogram_gallery([]), report.corpus_table([]), report.learning_curves([]),
        report.confusion_heatmap({"labels": [], "counts": []}), report.worst_mistakes([]),
        searched.reward_curve([]), searched.reward_curve([trial(0, None)]), beliefs_on.beliefs([]),
        beliefs_on.pair_heatmaps([]), searched.finalists_table([]), beliefs_on.importance([]),
        searched.trial_curves([]), searched.costs([], []),
        searched.trial_curves([{"number": 0, "kind": "other", "points": [(1, 0.5)]}]),
    ):  # fmt: skip
        assert 'class="empty"' in section.body
        Reader(page(section))
    Reader(page(report.metrics_table({}), searched.recommendation("Keep it.", [], "")))
    Reader(page(report.settings_table({}, None), report.provenance({})))
    Reader(whole_page("", []))


def test_best_so_far_never_falls_and_counts_complete_trials_only() -> None:
    rng = np.random.default_rng(2)
    trials = [trial(i, None if i % 7 == 0 else float(rng.normal())) for i in range(200)]
    trials[9] = trial(9, 99.0, state="pruned")
    trials[11]["score"] = NAN
    best = search_plots.best_so_far(trials)
    known = [b for b in best if b is not None]
    assert best[0] is None
    assert known == sorted(known)
    assert known[-1] == max(
        t["score"] for t in trials if t["state"] == "complete" and t["score"] == t["score"]
    )


def test_the_default_is_a_level_and_a_negative_or_zero_score_counts() -> None:
    words = Reader(page(searched.reward_curve([trial(0, 0.0, "default"), trial(1, -0.5)]))).words
    assert "default 0.000" in words
    assert "best 0.000" in words
    assert "−0.5000" in words


def band(body: str) -> list[list[float]]:
    """Return the corners of the interval's band."""
    (path,) = (p for p in figures(body)[0].iter("path") if p.attrib.get("class") == "band")
    return [
        [float(v) for v in pair.split()] for pair in re.findall(r"[\d.]+ [\d.]+", path.attrib["d"])
    ]


def test_the_interval_of_the_best_so_far_is_a_band_that_stays_on_the_chart() -> None:
    trials = [trial(i, 0.5 + i / 100) for i in range(8)]
    path = [{"after": i, "mean": 0.5, "low": -9.0 if i == 1 else 0.45, "high": 0.6}
            for i in range(1, 8)]  # fmt: skip
    path.insert(0, {"after": 0, "mean": 0.5, "low": None, "high": None})
    body = searched.reward_curve(trials, path=path, notes=["Two failed."]).body
    corners = band(body)
    assert len(corners) == 2 * 2 * 7
    assert all(30 <= y <= 305 for _, y in corners)
    assert "expected 0.500" in Reader(body).words
    assert "Two failed." in Reader(body).words
    assert 'class="band"' not in searched.reward_curve(trials).body


def test_where_low_is_good_the_lowest_is_best() -> None:
    trials = [trial(i, s) for i, s in enumerate([0.5, 0.2, 0.9])]
    body = searched.reward_curve(trials, lowest=True).body
    assert "best 0.200" in Reader(body).words
    table = body.split("<tbody>")[1].split("</tbody>")[0]
    assert table.index("0.2000") < table.index("0.5000") < table.index("0.9000")
    pair = {"a": "a", "b": "b", "a_values": [1], "b_values": [1, 2], "mean": [[0.3, 0.1]]}
    for lowest, best in ((False, "0.300"), (True, "0.100")):
        body = beliefs_on.pair_heatmaps([{**pair, "lowest": lowest}]).body
        (group,) = (g for g in figures(body)[0].iter("g")
                    if any("best" in r.attrib["class"] for r in g.iter("rect")))  # fmt: skip
        assert best in "".join(group.itertext())


def test_only_an_interplay_larger_than_its_doubt_is_told() -> None:
    pair = {"a": "a", "b": "b", "a_values": [1, 2], "b_values": [3, 4], "share": 0.2,
            "mean": [[0.1, 0.2], [0.3, 0.4]],
            "interaction": [[0.01, -0.02], [-0.01, 0.02]]}  # fmt: skip
    told = beliefs_on.pair_heatmaps([{**pair, "interaction_sd": [[0.01] * 2] * 2}]).body
    assert "2 with 4: +0.020 ± 0.010" in Reader(told).words
    told = beliefs_on.pair_heatmaps([{**pair, "interaction_sd": [[0.03] * 2] * 2}]).body
    assert "No cell stands out" in Reader(told).words


def test_an_interval_of_costs_ends_where_it_says() -> None:
    value = {"value": 1, "mean": 1.0, "low": 0.5, "high": 3.0, "seconds": 1.0, "n": 3}
    section = searched.costs([], [{"name": "a", "values": [value]}])
    bar = re.search(r'd="M(\S+) \S+L(\S+) \S+" class="bar other"', section.body)
    dot = re.search(r'cx="(\S+)" \S+ \S+ class="dot other"', section.body)
    assert bar
    assert dot
    low, high, mean = float(bar[1]), float(bar[2]), float(dot[1])
    assert (high - mean) / (mean - low) == pytest.approx(2.0 / 0.5, rel=0.02)


def test_a_long_search_stays_light() -> None:
    trials = [trial(i, i % 97 / 100) for i in range(5000)]
    body = searched.reward_curve(trials).body
    assert len(body) < 600_000
    assert body.count("<title>") == plots.TITLED
    drawn = "".join(p.attrib["d"] for p in figures(body)[0].iter("path") if "trial" in
                    p.attrib["class"])  # fmt: skip
    assert drawn.count("z") == 5000


@pytest.mark.parametrize("n", [2, 5, 20, 21, 50])
def test_confusion_shows_every_count_with_its_share(n: int) -> None:
    given = confusion(n)
    section = report.confusion_heatmap(given)
    titles = [t.text or "" for t in figures(section.body)[0].iter("title")]
    told = [re.fullmatch(r"(.+) (?:recognised|taken for .+): (\d+) of (\d+) clips, .*", t)
            for t in titles]  # fmt: skip
    found: dict[str, int] = {}
    for match in filter(None, told):
        found[match[1]] = found.get(match[1], 0) + int(match[2])
        assert int(match[3]) == sum(given["counts"][given["labels"].index(match[1])])
    assert found == {f"class {i}": sum(row) for i, row in enumerate(given["counts"])}
    assert ("<table>" in section.body.split("<details>")[0]) == (n > 20)


def test_row_shares_sum_to_one() -> None:
    shares = report.row_shares(confusion(30)["counts"])
    np.testing.assert_allclose(np.sum(shares, axis=1), 1.0)


def test_confusion_is_sorted_whatever_the_order_given() -> None:
    one = {"labels": ["class 10", "class 2"], "counts": [[5, 1], [0, 8]]}
    other = {"labels": ["class 2", "class 10"], "counts": [[8, 0], [1, 5]]}
    assert report.confusion_heatmap(one) == report.confusion_heatmap(other)
    assert report.confusion_heatmap(one).body.index("class 2") < report.confusion_heatmap(
        one
    ).body.index("class 10 recognised")


def test_a_picture_shows_its_lowest_band_at_the_bottom() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 200)).astype(np.uint8)
    levels[0] = 255
    uri = plots.picture_uri(levels)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    np.testing.assert_array_equal(np.asarray(image), levels[::-1])  # the indices are the levels
    shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, plots.palette()[levels[::-1]])
    assert shown[-1].sum(axis=1).min() > 600


def test_the_colour_map_is_magma_and_grows_brighter_all_the_way() -> None:
    colours = plots.palette().astype(float)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -0.5).all()
    matplotlib = pytest.importorskip("matplotlib")
    true = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    assert np.abs(colours - true).max() <= 4


def test_a_wide_picture_is_averaged_and_a_bad_shape_refused() -> None:
    uri = plots.picture_uri(np.full((8, 3000), 40, np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.size == (480, 8)
    assert set(np.asarray(image).ravel()) == {40}
    with pytest.raises(ValueError, match=r"\(3,\)"):
        plots.picture_uri(np.zeros(3, np.uint8))


def test_thirty_pictures_of_noise_stay_under_a_megabyte_and_a_half() -> None:
    rng = np.random.default_rng(1)
    noise = [(f"class {i % 10}", str(i), rng.integers(0, 256, (64, 200)).astype(np.uint8))
             for i in range(30)]  # fmt: skip
    assert len(page(report.spectrogram_gallery(noise))) < 1_500_000


def test_the_chosen_epoch_is_marked() -> None:
    history = [{"epoch": e, "validation_accuracy": a} for e, a in enumerate([0.1, 0.8, 0.8], 1)]
    assert "2 (kept)" in report.learning_curves(history).body
    assert "3 (kept)" in report.learning_curves(history, chosen_epoch=3).body


def test_beliefs_are_sorted_by_importance() -> None:
    value = [{"value": 1, "mean": 0.5, "sd": 0.1, "n": 3}]
    knobs = [{"name": n, "values": value, "importance": i} for n, i in [("low", 0.1), ("top", 0.9)]]
    body = beliefs_on.beliefs(knobs).body
    assert body.index(">top<") < body.index(">low<")


def test_settings_that_differ_are_emphasised_and_none_is_a_value() -> None:
    given = {"spectrogram": {"n_mels": 128, "top_db": None, "hop_length": 160}}
    default = {"spectrogram": {"n_mels": 64, "top_db": 80.0, "hop_length": 160}}
    body = report.settings_table(given, default).body
    assert "3 settings; 2 differ from the default" in body
    assert "<mark>128</mark>" in body
    assert "<mark>none</mark>" in body
    assert "<mark>160" not in body


def test_a_leading_number_is_set_large_and_the_words_stay_whole() -> None:
    words = "91.3 % of 240 held-out clips right, 95 % interval 87.1 to 94.6"
    body = report.headline(words).body
    assert "<strong>91.3 %</strong>" in body
    assert Reader(body).words == words
    assert "<strong>" not in report.headline("Nothing was learned").body


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, title="Run", sections=everything(HOSTILE))
    before = path.read_bytes()
    assert before.startswith(b"<!DOCTYPE html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

    def fails(*_: object) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, title="Other", sections=[])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_importing_the_report_loads_nothing_slow() -> None:
    code = (
        "import sys, audio.report, audio.search_report; "
        "print({'matplotlib', 'PIL', 'torch', 'librosa', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
