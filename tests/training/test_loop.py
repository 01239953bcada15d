"""One training loop; the methods differ only in which images are attacked."""

import copy
import inspect
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from torch.utils._python_dispatch import TorchDispatchMode

from softadv._float32 import float32_products
from softadv._io import tensors_sha256
from softadv.attacks import is_linf, load_attack
from softadv.errors import SoftadvError
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import attack_of, train_config
from softadv.kernels import build as compiled
from softadv.models import conv_small
from softadv.training import epoch_start
from softadv.training import loop as training
from softadv.training.config import generator_for
from softadv.training.loop import train_epoch
from softadv.training.partition import partition
from softadv.training.state import TrainState, new_state
from softadv.training.timing import EpochSeconds

IMAGES = 64
TRIAL = Trial(
    setting="tests", dataset="digits", method="soft", seed=3, eps=0.02, alpha=0.01, steps=2, epochs=4, batch_size=32
)


class Recorder:
    """An attack that keeps what it was given, and moves every pixel so that it shows: further than any ball reaches."""

    norm = "none"

    def __init__(self):
        self.attacked = []

    def __call__(self, model, x, y, *, eps, generator):
        self.attacked += [key(image, int(label)) for image, label in zip(x, y, strict=True)]
        return 1 - x


def key(image, label):
    return image.numpy().tobytes(), label


def counted(x, y, mask=None):
    """How often each image is in a set."""
    chosen = range(len(x)) if mask is None else mask.nonzero()[:, 0].tolist()
    return Counter(key(x[i], int(y[i])) for i in chosen)


def one_epoch(state, images, trial, epoch, attack=None):
    """attack: one of the test's own in place of the trial's."""
    config = train_config(trial)
    config = replace(config, attack=attack or config.attack)
    return train_epoch(state, *images, config=config, epoch=epoch, on_progress=lambda _what, _done: None)


@pytest.fixture
def images(digits):
    return digits.train_x[:IMAGES], digits.train_y[:IMAGES]


def state_of(trained, trial) -> TrainState:
    return new_state(copy.deepcopy(trained), train_config(trial))


@pytest.mark.parametrize("update", ["mixed", "two-pass"])
@pytest.mark.parametrize("split_every", [1, 2])
def test_soft_training_attacks_exactly_what_is_not_verified(trained_digits, images, update, split_every):
    trial = replace(TRIAL, update=update, split_every=split_every)
    state = state_of(trained_digits, trial)
    for epoch in (1, 2, 3):
        if (epoch - 1) % split_every == 0:
            expected = partition(state.model, *images, eps=trial.eps, domain=trial.domain)
        recorder = Recorder()
        one_epoch(state, images, trial, epoch, recorder)
        assert 0 < int(expected.verified.sum()) < IMAGES
        assert torch.equal(state.partition.verified, expected.verified)
        assert Counter(recorder.attacked) == counted(*images, ~expected.verified)


@pytest.mark.parametrize("update", ["mixed", "two-pass"])
def test_natural_training_attacks_nothing(trained_digits, images, update):
    recorder = Recorder()
    trial = replace(TRIAL, method="natural", update=update)
    state = state_of(trained_digits, trial)
    one_epoch(state, images, trial, 1, recorder)
    assert recorder.attacked == []
    assert state.partition is None


@pytest.mark.parametrize("update", ["mixed", "two-pass"])
def test_adversarial_training_attacks_every_image_once(trained_digits, images, update):
    trial = replace(TRIAL, method="adversarial", update=update)
    state = state_of(trained_digits, trial)
    for epoch in (1, 2):
        recorder = Recorder()
        one_epoch(state, images, trial, epoch, recorder)
        assert Counter(recorder.attacked) == counted(*images)
    assert state.partition is None


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
@pytest.mark.parametrize("update", ["mixed", "two-pass"])
def test_every_image_is_trained_once_and_attacked_ones_as_they_were_attacked(
    monkeypatch, trained_digits, images, method, update
):
    trial = replace(TRIAL, method=method, update=update)
    state = state_of(trained_digits, trial)
    trained, sizes = [], []

    step = training._update

    def record(state, config, clean, inputs, labels, *, loss_of):
        trained.extend(image.clone() for image in inputs)
        sizes.append(len(inputs))
        return step(state, config, clean, inputs, labels, loss_of=loss_of)

    recorder = Recorder()
    monkeypatch.setattr(training, "_update", record)
    one_epoch(state, images, trial, 1, recorder)
    attacked = Counter(image for image, _ in recorder.attacked)
    clean = Counter(image.numpy().tobytes() for image in images[0]) - attacked
    flipped = Counter((1 - torch.frombuffer(bytearray(b), dtype=torch.float32)).numpy().tobytes() for b in attacked)
    assert Counter(image.numpy().tobytes() for image in trained) == clean + flipped
    assert max(sizes) <= trial.batch_size


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
def test_the_seed_decides_the_weights(images, method):
    def weights(seed):
        trial = replace(TRIAL, method=method, seed=seed)
        state = new_state(conv_small("digits", seed=0), train_config(trial))
        for epoch in (1, 2):
            torch.rand(3)  # other draws from the global generator change nothing
            one_epoch(state, images, trial, epoch)
        return tensors_sha256(state.model.state_dict())

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_epoch_of_one_batch_is_one_step_of_the_optimizer(trained_digits, images, optimizer):
    trial = replace(TRIAL, method="natural", optimizer=optimizer, lr=0.01, batch_size=IMAGES)
    state = state_of(trained_digits, trial)
    expected = copy.deepcopy(trained_digits)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    step = kind(expected.parameters(), lr=0.01)
    step.zero_grad()
    loss = F.cross_entropy(expected(images[0]), images[1])
    loss.backward()
    step.step()
    trained = one_epoch(state, images, trial, 1, Recorder())
    assert trained.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    for ours, theirs in zip(state.model.parameters(), expected.parameters(), strict=True):
        # Adam divides by the gradient's size, and tiny gradients have few exact digits.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_training_lowers_the_loss(images):
    trial = replace(TRIAL, method="natural")
    state = new_state(conv_small("digits", seed=0), train_config(trial))
    losses = [one_epoch(state, images, trial, epoch, Recorder()).loss for epoch in range(1, 11)]
    assert losses[-1] < losses[0] - 0.1


def test_progress_counts_every_image_of_both_stages(trained_digits, images):
    seen = {}
    state = state_of(trained_digits, TRIAL)
    train_epoch(state, *images, config=train_config(TRIAL), epoch=1, on_progress=seen.__setitem__)
    assert seen == {"certifying": IMAGES, "training": IMAGES}


def test_augmented_images_are_crops_and_flips_and_the_same_each_time():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 3, 32, 32, generator=generator)
    y = torch.randint(10, (30,), generator=generator)
    trial = replace(TRIAL, dataset="cifar10", method="adversarial", augment="crop-flip")

    def augmented(epoch):
        recorder = Recorder()
        one_epoch(state_of(conv_small("cifar10", seed=0), trial), (x, y), trial, epoch, recorder)
        return recorder.attacked

    first = augmented(1)
    assert first == augmented(1)
    assert Counter(first) != Counter(augmented(2))
    padded = F.pad(x, (4, 4, 4, 4))
    # Every crop of every image at a corner that a random one may have, to (image, top, left, flipped).
    crops = {
        key(image, int(label)): (index, top, left, flipped)
        for flipped in (False, True)
        for top in range(9)
        for left in range(9)
        for index, (image, label) in enumerate(zip(_crop(padded, top, left, flipped), y, strict=True))
    }
    found = [crops[image] for image in first]
    assert sorted(index for index, *_ in found) == list(range(30))
    assert len({place for _, *place, _ in map(list, found) for place in [tuple(place)]}) > 10
    assert {flipped for *_, flipped in found} == {False, True}


def _crop(padded, top, left, flipped):
    crop = padded[:, :, top : top + 32, left : left + 32]
    return (crop.flip(3) if flipped else crop).contiguous()


@pytest.mark.parametrize("tf32", [True, False])
def test_products_are_rounded_to_tf32_where_the_trial_says_so_and_never_while_certifying(
    monkeypatch, trained_digits, images, tf32
):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    seen = []

    def look(what):
        seen.append((what, *(backend.allow_tf32 for backend in backends)))

    def attack(model, x, y, *, eps, generator):
        look("attack")
        return x

    def certify(*arguments, **settings):
        look("certification")
        return partition(*arguments, **settings)

    monkeypatch.setattr(epoch_start, "partition", certify)
    trial = replace(TRIAL, tf32=tf32)
    with float32_products(tf32=not tf32):
        one_epoch(state_of(trained_digits, trial), images, trial, 1, attack)
        look("after")
    assert set(seen) == {("certification", False, False), ("attack", tf32, tf32), ("after", not tf32, not tf32)}


class Questions(TorchDispatchMode):
    """Notes every operation whose result's shape or value the processor must wait for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        by_mask = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}:
            self.asked.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["natural", "adversarial", "soft"])
@pytest.mark.parametrize("update", ["mixed", "two-pass"])
def test_the_device_is_asked_nothing_between_the_first_step_and_the_last(trained_digits, images, method, update):
    # Adam on a CPU asks for its own number of steps, which lies there.
    trial = replace(TRIAL, method=method, update=update, optimizer="sgd", split_every=4)
    state = state_of(trained_digits, trial)
    if method == "soft":
        state.partition = partition(state.model, *images, eps=trial.eps)
    asked = []

    def progress(what, done):
        asked.append(len(questions.asked))

    # The kernels, which are for CPUs, ask for the least and the greatest label.
    config = replace(train_config(trial), attack=lambda _model, x, _y, *, eps, generator: x)
    with Questions() as questions, compiled.disabled():
        train_epoch(state, *images, config=config, epoch=2, on_progress=progress)
    assert len(asked) >= 2
    assert len(set(asked)) == 1
    # The test sees what it looks for: whether all is finite, and the loss, are asked for at the end.
    assert questions.asked[-1] == "_local_scalar_dense"
    assert len(questions.asked) == asked[-1] + 2


def test_a_gpus_seconds_are_its_own_and_asked_for_at_the_end(monkeypatch):
    now, waits = 0, []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = now

        def synchronize(self):
            waits.append(self.at)

        def elapsed_time(self, end):
            return 1000.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    seconds = EpochSeconds(torch.device("cuda"))
    for what, length in (("attack", 3), ("update", 1), ("attack", 4), ("certification", 5)):
        with seconds.spent_on(what):
            now += length
        now += 10
    assert waits == []
    for _ in range(2):  # nothing is counted twice
        seconds.settle()
        assert (seconds.attack, seconds.update, seconds.certification) == (7, 1, 5)


@pytest.mark.parametrize("name", ["PGDL2", "PGDRSL2"])
def test_an_attack_of_another_norm_than_the_splits_has_to_be_asked_for(name):
    trial = replace(TRIAL, attack=f"torchattacks:{name}")
    with pytest.raises(SoftadvError, match=f"^attack: torchattacks:{name} is not known .* attack_norm"):
        attack_of(trial)
    attack_of(replace(trial, attack_norm="any"))


def test_the_attacks_taken_for_linf_are_those_that_torchattacks_calls_so():
    for name, kind in vars(torchattacks).items():
        if isinstance(kind, type) and "eps" in inspect.signature(kind).parameters:
            said = re.search(r"Distance Measure : ([\w, ]+)", kind.__doc__ or "")
            norm = inspect.signature(kind).parameters.get("norm")
            linf = norm.default == "Linf" if norm else said is not None and said[1].strip() == "Linf"
            assert is_linf(load_attack(f"torchattacks:{name}")) == linf, name


def test_generators_depend_on_seed_epoch_and_purpose():
    def draw(trial, epoch, purpose):
        return float(torch.rand((), generator=generator_for(trial.seed, epoch, purpose, torch.device("cpu"))))

    other = replace(TRIAL, seed=4)
    draws = [draw(TRIAL, 1, "order"), draw(TRIAL, 2, "order"), draw(TRIAL, 1, "attack"), draw(other, 1, "order")]
    assert len(set(draws)) == 4
    assert draws[0] == draw(replace(TRIAL, method="natural", eps=0.5), 1, "order")
