"""Grids and trials are checked before anything runs, with one line that names the file and the key."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softadv._ranges import MOST_EPOCHS, MOST_IMAGES, MOST_STEPS
from softadv.errors import SoftadvError
from softadv.experiments.spec import (
    METHODS,
    Grid,
    Trial,
    load_grid,
    number,
    packaged_grids,
    parse_grid,
    trial_from_table,
    trial_to_table,
)
from tests.refusals import refusal

TRIAL = Trial(setting="a", dataset="digits", method="soft", seed=0, eps=0.1, alpha=0.01, steps=20, epochs=2)

GRID = """
name = "two"
methods = ["natural", "soft"]
seeds = [0, 1]

[defaults]
dataset = "digits"
steps = 5
epochs = 2

[[setting]]
setting = "small"
eps = "1/255"
alpha = 0.001

[[setting]]
setting = "large"
eps = 0.1
alpha = "1/100"
epochs = 3
"""


def refused_grid(old: str, new: str) -> str:
    """The message about GRID with one thing changed."""
    assert old in GRID
    message = refusal(parse_grid, GRID.replace(old, new, 1), source="some.toml")
    assert message.startswith("some.toml: ")
    return message


def test_every_packaged_grid_loads():
    own = ["controls", "mnist-certified", "rolling"]  # softadv's own questions
    paper = ["cifar10", "mnist", "paper", "paper-short", "paper-wide", "paper-wide-short"]
    paper += ["sensitivity", "sensitivity-short", "smoke"]
    assert packaged_grids() == sorted(own + paper)
    for name in packaged_grids():
        grid = load_grid(name)
        assert grid.name == name
        assert grid.description
        if name in paper:
            methods = set(METHODS) - ({"natural"} if name.startswith("sensitivity") else set())
            assert {trial.method for trial in grid.trials} == methods


def test_a_setting_may_have_seeds_of_its_own():
    trials = load_grid("controls").trials
    assert {trial.seed for trial in trials if trial.setting == "cifar10-eps8-held-out"} == {0, 1, 2}
    assert {trial.seed for trial in trials if trial.setting == "cifar10-eps8-short"} == {0, 1, 2, 3, 4}


def test_the_trials_of_paper_short_are_trials_of_controls():
    assert set(load_grid("paper-short").trials) < set(load_grid("controls").trials)


def test_the_papers_grid_has_the_papers_settings():
    asked = {(t.dataset, t.eps, t.alpha, t.steps, t.epochs) for t in load_grid("paper").trials}
    assert asked == {
        ("mnist", 0.1, 0.01, 20, 50),
        ("cifar10", 1 / 255, 0.001, 15, 64),
        ("cifar10", 2 / 255, 0.001, 15, 64),
        ("cifar10", 4 / 255, 0.005, 15, 64),
        ("cifar10", 8 / 255, 0.005, 15, 64),
        ("cifar10", 10 / 255, 0.005, 15, 64),
    }


def test_a_grid_is_every_method_and_seed_of_every_setting():
    trials = parse_grid(GRID, source="some.toml").trials
    assert [trial.name for trial in trials] == [
        f"{setting}-{method}-seed{seed}"
        for setting in ("small", "large")
        for seed in (0, 1)
        for method in ("natural", "soft")
    ]
    assert (trials[0].eps, trials[0].epochs, trials[0].steps) == (1 / 255, 2, 5)
    assert (trials[-1].alpha, trials[-1].epochs, trials[-1].steps) == (0.01, 3, 5)


def test_a_setting_may_have_methods_of_its_own():
    text = GRID.replace('setting = "large"', 'setting = "large"\nmethods = ["soft"]')
    names = [trial.name for trial in parse_grid(text, source="some.toml").trials if trial.setting == "large"]
    assert names == ["large-soft-seed0", "large-soft-seed1"]


@pytest.mark.parametrize("name", ["sensitivity", "sensitivity-short"])
def test_the_sensitivity_grids_vary_one_choice_at_a_time(name):
    trials = load_grid(name).trials
    bases = {"mnist-eps0.1", "cifar10-eps4", "mnist-eps0.1-5epochs", "cifar10-eps4-short"}
    base = {trial.dataset: trial for trial in trials if trial.setting in bases}
    together = [{"optimizer", "lr"}, {"epochs", "natural_epochs", "split_every"}]
    for trial in trials:
        of = trial_to_table(base[trial.dataset])
        differs = {k for k, v in trial_to_table(trial).items() if v != of[k]} - {"setting", "method", "seed"}
        assert len(differs) <= 1 or differs in together
    varied = {k for t in trials for k, v in trial_to_table(t).items() if v != trial_to_table(base[t.dataset])[k]}
    assert varied > {"update", "split_every", "natural_epochs", "optimizer", "batch_size", "random_start"}


def test_a_grid_is_read_from_a_file_of_ones_own(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(GRID)
    assert load_grid(str(path)) == parse_grid(GRID, source=str(path))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[defaults]", "extra = 1\n[defaults]", "'extra'"),
        ("steps = 5", "stepz = 5", "'stepz'"),
        ('setting = "large"', 'setting = "large"\ncolour = 1', "'large': unknown key 'colour'"),
        ('setting = "large"', 'setting = "large"\nmethods = "soft"', "'large': methods must be a list"),
        ('setting = "large"', 'setting = "large"\nmethods = ["a b"]', "'large': method: expected a name"),
        ('name = "two"', "", "name is missing"),
        ("seeds = [0, 1]", "", "seeds is missing"),
        ('methods = ["natural", "soft"]', "", "methods is missing"),
        ("steps = 5\n", "", "steps is missing"),
        ('setting = "large"', 'setting = "large"\nseed = 7', "'large': seed: has no effect here; name seeds above"),
        ('setting = "large"', 'setting = "large"\nmethod = "soft"', "'large': method: has no effect here"),
        ("steps = 5", "steps = 5\nseed = 7", "defaults: seed: has no effect here"),
        ("steps = 5", 'steps = 5\nmethod = "soft"', "defaults: method: has no effect here"),
        ('name = "two"', f'name = "{"n" * 101}"', "name: "),
        ('name = "two"', 'name = "two"\ndescription = 3', "description must be"),
        ("eps = 0.1", "", "'large': eps is missing"),
        ('setting = "small"', "", "setting is missing"),
        ('name = "two"', "name = 2", "name must be"),
        ('name = "two"', 'name = "../two"', "name: '../two'"),
        ("seeds = [0, 1]", "seeds = 1", "seeds must be"),
        ("seeds = [0, 1]", "seeds = [true]", "seed: expected a whole number, got True"),
        ("seeds = [0, 1]", "seeds = [0.5]", "seed: expected a whole number, got 0.5"),
        ("seeds = [0, 1]", "seeds = [-1]", "seed: must be at least 0"),
        ("seeds = [0, 1]", "seeds = [2147483648]", "seed: must be at most 2,147,483,647"),
        ("seeds = [0, 1]", "seeds = []", "no trials"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "two trials are named small-natural-seed0"),
        ('"large"', '"small"', "two trials are named small-natural-seed0"),
        ('methods = ["natural", "soft"]', 'methods = ["soft(x"]', "method: expected a name"),
        ('methods = ["natural", "soft"]', 'methods = ["trades(beta)"]', "method: trades(beta): expected KEY=NUMBER"),
        ("[defaults]\n", "[[defaults]]\n", "defaults must be"),
        ('dataset = "digits"', 'dataset = ["digits"]', "dataset: expected a text, got ['digits']"),
        ("steps = 5", "steps = 5.0", "steps: expected a whole number"),
        ("steps = 5", "steps = 0", "steps: must be at least 1"),
        ("steps = 5", "steps = 4294967296", "steps: must be at most 1,000,000"),  # 32 bits make it 0
        ("steps = 5", f"steps = 1{'0' * 400}", "steps: must be at most 1,000,000"),
        ("steps = 5", f"steps = {'9' * 5000}", "not valid TOML"),
        ("epochs = 2", f"epochs = 1{'0' * 400}", "epochs: must be at most 1,000,000"),
        ("epochs = 2", "epochs = 2\nbatch_size = 4294967296", "batch_size: must be at most"),
        ("epochs = 2", f"epochs = 2\nlr = 1{'0' * 400}", "lr: expected a number"),
        ("epochs = 2", 'epochs = "2"', "epochs: expected a whole number"),
        ("eps = 0.1", "eps = 1.5", "eps"),
        ("eps = 0.1", "eps = -0.1", "eps: must be 0 or more"),
        ("eps = 0.1", "eps = nan", "eps"),
        ("eps = 0.1", "eps = 8", "did you mean 8/255?"),
        ("eps = 0.1", 'eps = "1e999999999"', "eps: expected a number or a fraction"),
        ("alpha = 0.001", "alpha = 2", "alpha: 2 is more than the width"),
        ("eps = 0.1", "eps = inf", "eps"),
        ("eps = 0.1", 'eps = "1/0"', "eps: expected a number or a fraction"),
        ("eps = 0.1", 'eps = "1e999"', "eps"),
        ("alpha = 0.001", 'alpha = "half"', "alpha: expected a number or a fraction"),
        ("alpha = 0.001", "alpha = true", "alpha: expected a number or a fraction"),
        ('setting = "large"', 'setting = "lar/ge"', "setting: 'lar/ge'"),
        ('setting = "large"', "setting = 3", "setting: expected a text"),
        ('setting = "large"', 'setting = "lar\\nge"', "setting"),
        ('name = "two"', "name = two", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_grid_is_named(old, new, named):
    assert named in refused_grid(old, new)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", float("nan")),
        ("batch_size", 0),
        ("split_every", 0),
        ("natural_epochs", -1),
        ("natural_epochs", 10**6),  # as many as there are epochs, or more
        ("autoattack_images", -1),
        ("tf32", 1),
        ("optimizer", "lbfgs"),
        ("update", "three-pass"),
        ("augment", "mixup"),
        ("augment", "crop-flip"),  # for cifar10 only
        ("domain", "deepz"),
        ("attack", 3),
        ("random_start", 1),
        ("normalize", "yes"),
        ("train_images", 0),
        ("train_images", True),
        ("test_images", 1.5),
        ("certified_images", -1),
        ("certified_domains", ["deeppoly", "magic"]),
        ("certified_domains", "deeppoly"),
        ("certified_domains", [1]),
    ],
)
def test_what_is_wrong_with_a_trial_is_named(key, value):
    message = refusal(trial_from_table, trial_to_table(TRIAL) | {key: value}, where="spec.json")
    assert message.startswith(f"spec.json: {key}: ")


def test_augmented_images_must_be_certified_each_epoch():
    assert "split_every" in refusal(replace, TRIAL, dataset="cifar10", augment="crop-flip", split_every=2)


def test_whole_numbers_do_for_rates():
    assert trial_from_table(trial_to_table(TRIAL) | {"lr": 1, "momentum": 0, "eps": 0}, where="") == replace(
        TRIAL, lr=1.0, momentum=0.0, eps=0.0
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.5", 0.5), (1, 1.0), (0.25, 0.25), ("1e-3", 1e-3)],
)
def test_numbers_and_fractions_are_read(text, value):
    assert number(text, key="eps") == value


@pytest.mark.parametrize("text", ["8/0", "8/", "/255", "eight", "", "8/255/2", "nan", "inf", True, None, [8], "1e999"])
def test_what_is_no_number_is_named_by_its_key(text):
    assert refusal(number, text, key="eps").startswith("eps: ")


@pytest.mark.parametrize(
    "text",
    [
        'include = ["nothing"]',
        "include = [1]",
        'include = "mnist"',
        "include = []",
        'include = ["mnist", "mnist"]',
        'include = ["mnist"]\nseeds = [1]',  # would be ignored
        'include = ["mnist"]\n[[setting]]\nsetting = "more"',
    ],
)
def test_what_is_wrong_with_an_include_is_named(text):
    message = refusal(parse_grid, f'name = "all"\n{text}\n', source="some.toml")
    assert message.startswith("some.toml: ")


def test_a_grid_that_includes_itself_is_refused(tmp_path):
    path = tmp_path / "circle.toml"
    path.write_text(f'name = "circle"\ninclude = ["{path}"]\n')
    assert str(path) in refusal(load_grid, str(path))


def test_an_include_joins_grids():
    joined = parse_grid('name = "both"\ninclude = ["smoke", "mnist"]\n', source="some.toml")
    assert joined.trials == load_grid("smoke").trials + load_grid("mnist").trials


def test_an_unknown_grid_is_named_beside_the_known_ones():
    message = refusal(load_grid, "smoek")
    assert "'smoek'" in message
    assert "smoke" in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"name ="])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refusal(load_grid, str(path))


def test_a_selection_keeps_the_methods_asked_for():
    chosen = load_grid("smoke").select(methods=["soft", "natural"])
    assert [trial.method for trial in chosen.trials] == ["natural", "soft"] * 2


def test_a_selection_has_the_seeds_and_epochs_asked_for():
    grid = parse_grid(GRID, source="some.toml")
    chosen = grid.select(seeds=3, epochs=1)
    assert sorted(trial.name for trial in chosen.trials) == sorted(
        f"{setting}-{method}-seed{seed}"
        for setting in ("small", "large")
        for method in ("natural", "soft")
        for seed in range(3)
    )
    assert {trial.epochs for trial in chosen.trials} == {1}
    assert grid.select(seeds=1).select(seeds=2).trials == grid.select(seeds=2).trials


def test_a_selection_of_seeds_has_every_setting_whatever_seeds_it_has():
    own = GRID.replace('setting = "large"', 'setting = "large"\nseeds = [7]')
    assert own != GRID
    assert parse_grid(own, source="some.toml").select(seeds=2) == parse_grid(GRID, source="some.toml").select(seeds=2)


def test_a_selection_of_everything_changes_nothing():
    grid = load_grid("smoke")
    assert grid.select() == grid


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"methods": ["hard"]}, "methods: unknown method 'hard'"),
        ({"methods": []}, "methods"),
        ({"seeds": 0}, "seeds"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_a_selection_of_nothing_is_refused(chosen, named):
    assert named in refusal(load_grid("smoke").select, **chosen)


def test_a_selection_of_a_method_that_no_trial_has_is_refused():
    assert "soft" in refusal(
        Grid(name="n", description="", trials=(replace(TRIAL, method="natural"),)).select, methods=["soft"]
    )


@given(
    st.builds(
        Trial,
        setting=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        dataset=st.sampled_from(["digits", "mnist", "cifar10"]),
        method=st.sampled_from(METHODS),
        seed=st.integers(0, 2**31 - 1),
        eps=st.floats(0, 1),
        alpha=st.floats(0, 1),
        steps=st.integers(1, MOST_STEPS),
        epochs=st.integers(1, MOST_EPOCHS),
        lr=st.floats(0, 10, exclude_min=True),
        momentum=st.floats(0, 1, exclude_max=True),
        update=st.sampled_from(["mixed", "two-pass"]),
        random_start=st.booleans(),
        attack_norm=st.sampled_from(["linf", "any"]),
        train_images=st.none() | st.integers(1, MOST_IMAGES),
        certified_domains=st.lists(st.sampled_from(["box", "deepzono", "deeppoly"])).map(tuple),
    )
)
def test_a_trial_survives_its_record(trial):
    assert trial_from_table(json.loads(json.dumps(trial_to_table(trial))), where="spec.json") == trial


@pytest.mark.parametrize(
    ("defaults", "setting", "reason"),
    [
        ("momentum = 0.5", "", "defaults: momentum: has no effect without optimizer"),
        ("", "momentum = 0.5", "momentum: has no effect without optimizer"),
        ("schedule_factor = 0.5", "", "defaults: schedule_factor: has no effect without schedule"),
        ("lr = 0.5", "lr = 0.1", "defaults: lr: has no effect, every setting has its own"),
    ],
)
def test_a_key_that_no_trial_uses_is_refused(defaults, setting, reason):
    text = f"""
name = "g"
methods = ["natural"]
seeds = [0]
[defaults]
{defaults}
[[setting]]
setting = "s"
dataset = "digits"
eps = 0.1
alpha = 0.01
steps = 1
epochs = 1
{setting}
"""
    with pytest.raises(SoftadvError, match=reason):
        parse_grid(text, source="g.toml")
