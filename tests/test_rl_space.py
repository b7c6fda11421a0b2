"""Search spaces: what a knob is, when it exists, and how many settings there are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from audio.settings import Settings
from rl.space import Knob, SearchSpace, SpaceError
from rl.spaces import DEFAULT, FULL, QUICK

NOISY = SearchSpace(
    [
        Knob("noise_percent", (0.0, 50.0, 100.0)),
        Knob("noise_snr_db", (0.0, 10.0), when={"noise_percent": (50.0, 100.0)}),
        Knob("colour", ("white", "pink", None), when={"noise_snr_db": (0.0,)}),
        Knob("n_mels", (40, 64)),
    ]
)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ([], "at least one knob"),
        ([Knob("a", (1,)), Knob("a", (2,))], "two knobs are called a"),
        ([Knob("a", (1,), when={"b": (1,)}), Knob("b", (1,))], "does not come before"),
        ([Knob("a", (1, 2)), Knob("b", (1,), when={"a": (3,)})], "a=3 is not one of: 1, 2"),
        ([Knob("a", (1, 2)), Knob("b", (1,), when={"a": ()})], "no value of a"),
    ],
)
def test_a_space_that_breaks_a_rule_is_refused(knobs: list[Knob], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(knobs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "no values"),
        ((1, 2, 1), "value 1 twice"),
        ((True, 1), "value 1 twice"),
        (([1],), "no JSON scalar"),
        ((float("nan"),), "must be finite"),
    ],
)
def test_a_knob_that_breaks_a_rule_is_refused(values: tuple, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Knob("a", values)


def test_a_default_must_be_one_of_the_values() -> None:
    with pytest.raises(SpaceError, match="a=5 is not one of: 1, 2"):
        Knob("a", (1, 2), default=5)
    assert Knob("a", (None, 2)).default is None


def test_size_counts_what_settings_lists() -> None:
    settings = list(NOISY.settings())
    # without noise 2; with it, at either of 2 shares: (1 snr with 3 colours + 1 snr) x 2
    assert NOISY.size() == len(settings) == 2 + 2 * (3 + 1) * 2
    assert len({json.dumps(s) for s in settings}) == len(settings)
    assert QUICK.size() == len(list(QUICK.settings())) == 1215
    assert DEFAULT.size() > 10**5


def test_a_knob_whose_condition_fails_is_skipped() -> None:
    assert NOISY.next_knob({"noise_percent": 0.0}).name == "n_mels"
    assert NOISY.next_knob({"noise_percent": 50.0}).name == "noise_snr_db"
    assert NOISY.next_knob({"noise_percent": 50.0, "noise_snr_db": 10.0}).name == "n_mels"
    assert NOISY.next_knob({"noise_percent": 0.0, "n_mels": 40}) is None


def test_check_names_what_is_wrong() -> None:
    for setting, message in [
        ({"x": 1}, "no knob x"),
        ({"noise_percent": 0.0}, "lacks n_mels"),
        ({"noise_percent": 0.0, "noise_snr_db": 0.0, "n_mels": 40}, "noise_snr_db does not exist"),
        ({"noise_percent": 7.0, "n_mels": 40}, "noise_percent=7.0 is not one of"),
    ]:
        with pytest.raises(SpaceError, match=message):
            NOISY.check(setting)


def test_a_setting_is_completed_with_values_of_its_own_knobs_alone() -> None:
    space = SearchSpace([Knob("a", (1, 2)), Knob("b", (3, 4), when={"a": (2,)})])
    assert space.complete({"a": 2}) == {"a": 2, "b": 3}
    assert space.complete({"a": 1, "b": 9}) == {"a": 1}  # no b here, whatever it would be
    with pytest.raises(SpaceError, match="b=9 is not one of"):
        space.complete({"a": 2, "b": 9})
    with pytest.raises(SpaceError, match="no knob zz"):
        space.complete({"a": 1, "zz": 1})


def test_codes_round_trip_and_settle_makes_any_codes_legal() -> None:
    for setting in NOISY.settings():
        codes = NOISY.encode(setting)
        assert NOISY.decode(codes) == setting
        assert np.array_equal(NOISY.settle(codes[None])[0], codes)
    rng = np.random.default_rng(0)
    wild = rng.integers(0, NOISY.n_values + 1, size=(300, 4))
    wild[:, [0, 3]] = np.minimum(wild[:, [0, 3]], NOISY.n_values[[0, 3]] - 1)
    for row in NOISY.settle(wild):
        NOISY.check(NOISY.decode(row))


def test_random_settings_are_legal_and_reach_every_one() -> None:
    drawn = NOISY.draw(np.random.default_rng(1), 2000)
    assert len(np.unique(drawn, axis=0)) == NOISY.size()


@pytest.mark.parametrize("space", [NOISY, QUICK, DEFAULT, FULL])
def test_json_round_trip(space: SearchSpace) -> None:
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_toml_gives_the_same_space(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(
        """
        [[knob]]
        name = "noise_percent"
        values = [0.0, 50.0]
        [[knob]]
        name = "top_db"
        values = [80.0, "null"]
        default = "null"
        ordered = true
        when = { noise_percent = [50.0] }
        """
    )
    assert SearchSpace.from_toml(path) == SearchSpace(
        [
            Knob("noise_percent", (0.0, 50.0)),
            Knob("top_db", (80.0, None), default=None, ordered=True,
                 when={"noise_percent": (50.0,)}),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[knob]]\nname='a'", "knob a lacks values"),
        ("[[knob]]\nname='a'\nvalue=[1]", "no key value"),
        ("[[knob]]\nname='a'\nvalues=3", "must be a list"),
        ("[knobs]\na=[1]", r"\[\[knob\]\] tables"),
        ("nonsense", "space.toml"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(SpaceError, match=message) as caught:
        SearchSpace.from_toml(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("space", [QUICK, DEFAULT, FULL])
def test_named_spaces_hold_the_default_settings_and_only_legal_ones(space: SearchSpace) -> None:
    settings = Settings()
    assert space.default() == {name: settings.value_of(name) for name in space.default()}
    for row in space.draw(np.random.default_rng(0), 200):
        settings.with_values(space.decode(row))  # raises where a setting breaks a rule
