"""Pipelines that nobody has seen, with layouts of their own, are met by whole calls: right, counted, or refused."""

from __future__ import annotations

from collections import Counter, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import diffusers
import naive
import pytest
import torch
from diffusers.utils import BaseOutput
from test_guidance import PROMPTS
from transformers.utils import ModelOutput

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.conditions import Conditions

N = 10
GUIDED = {0, 1, 4, 7}
WORDS = "steps:0+1+4+7"


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXT, NULL, NOISE = normal(1, 2, 1, 4), normal(2, 2, 1, 4), normal(3, 2, 8, 4)


class Steps(diffusers.FlowMatchEulerDiscreteScheduler):
    """It knows how many steps were taken."""

    taken = 0

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self.taken = 0
        super().set_timesteps(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        self.taken += 1
        return super().step(*args, **kwargs)


class Net(torch.nn.Module):
    """(rows, 8, 4) -> what a subclass, or `wrap`, makes of a prediction of that shape; all of it is linear in that."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.mix, self.wrap = torch.nn.Linear(4, 4), wrap

    def forward(self, sample: torch.Tensor, timestep: Any, prompts: Any = NULL) -> Any:
        return self.wrap(self.predict(sample, timestep, prompts))

    def predict(self, z: torch.Tensor, t: Any, c: Any = NULL) -> torch.Tensor:
        level = torch.as_tensor(t, dtype=torch.float32).max()
        return torch.tanh(self.mix(z) * (1 + level / 1000)) + c * (1 - 0.3 * level / 1000)


class Pipe:
    """No pipeline of diffusers."""

    def __init__(self, net: Any = None, **parts: Any) -> None:
        torch.manual_seed(0)
        self.net = Net() if net is None else net
        self.scheduler = Steps(shift=2.0)
        vars(self).update(parts)

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        x = NOISE
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.predict(x, t), t, x).prev_sample
        return x

    def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        return self.net(x, t)


def nets(pipe: Any) -> list[Net]:
    return [part for part in vars(pipe).values() if isinstance(part, torch.nn.Module)]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What really is evaluated, in all networks."""
    seen: Counter[str] = Counter()
    predict = Net.predict

    def spy(self: Net, z: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.update(rows=len(z), calls=1)
        return predict(self, z, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Net, "predict", spy)
        yield seen


@contextmanager
def extrapolated(pipe: Any, level: Callable[[int], float]) -> Iterator[None]:
    """Each prediction of a step is a line through that of its last two guided steps in the steps that are none.

    What begins later learns first.
    """
    predict = Net.predict
    known: dict[Any, dict[int, torch.Tensor]] = defaultdict(dict)
    first: dict[Any, int] = {}
    place: dict[Any, tuple[int, int]] = {}

    def made(self: Net, *args: Any) -> torch.Tensor:
        step = pipe.scheduler.taken
        at, calls = place.get(self, (-1, 0))
        place[self] = (step, calls + 1 if at == step else 1)
        call = self, place[self]
        key = self, call[1][1]
        seen = known[key]
        if step in GUIDED or (first.setdefault(key, step) and len(seen) < 2):
            seen[step] = predict(self, *args)
            return seen[step].clone()
        last = list(seen)[-2:]
        return naive.polynomial([level(at) for at in last], [seen[at] for at in last], level(step))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Net, "predict", made)
        yield


def tensors(made: Any) -> list[torch.Tensor]:
    return [made] if isinstance(made, torch.Tensor) else list(made)


def error(made: Any, expected: Any) -> float:
    return max(naive.error(a, b) for a, b in zip(tensors(made), tensors(expected), strict=True))


def check(pipe: Any, calls: int | None = None, level: Callable[[int], float] | None = None) -> None:
    """What is claimed of every pipeline; `calls` are those of the guided steps, where that is not all."""
    with counted() as whole:
        stock = pipe()
    before = [(type(net), sorted(vars(net))) for net in nets(pipe)]
    with guide(pipe, "full") as spent, counted() as seen:
        assert error(pipe(), stock) == 0
    assert seen == whole == Counter(rows=spent.rows, calls=spent.calls) == Counter(rows=spent.asked, calls=spent.calls)

    sigmas = pipe.scheduler.sigmas.tolist()
    with guide(pipe, WORDS) as spent, counted() as seen:
        made = pipe()
    with extrapolated(pipe, level or sigmas.__getitem__):
        expected = pipe()
    assert error(made, expected) < 1e-4 < error(expected, stock)
    assert seen == Counter(rows=spent.rows, calls=spent.calls)
    assert spent.asked_calls == whole["calls"]
    assert spent.calls == (whole["calls"] * len(GUIDED) // N if calls is None else calls)
    with guide(pipe, WORDS):
        pipe()
        assert error(pipe(), made) == 0

    if calls is None:
        with guide(pipe, budget=0.6) as spent, counted() as seen:
            pipe()
        assert seen["calls"] == spent.calls == 0.6 * whole["calls"]
    with counted() as seen, pytest.raises(UnsupportedPipelineError, match="none can be dropped"):
        text_until(pipe, 2)
    assert not seen
    assert [(type(net), sorted(vars(net))) for net in nets(pipe)] == before
    assert error(pipe(), stock) == 0


# --- outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    picture: torch.Tensor
    sound: torch.Tensor | None
    number: torch.Tensor
    nothing: None = None


@dataclass
class OfDiffusers(BaseOutput):
    picture: torch.Tensor
    sound: torch.Tensor | None = None
    number: torch.Tensor | None = None


@dataclass
class OfTransformers(ModelOutput):
    picture: torch.Tensor | None = None
    sound: torch.Tensor | None = None
    number: torch.Tensor | None = None


class Attributes(dict):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Named = namedtuple("Named", "picture sound number")

CLASSES = {
    "dataclass": Plain,
    "a class of diffusers": OfDiffusers,
    "a class of transformers": OfTransformers,
    "dict with attributes": Attributes,
    "named tuple": Named,
    "dict": dict,
    "tuple": lambda **parts: (*parts.values(), None),
    "list": lambda **parts: [*parts.values(), None],
    "nested": lambda **parts: {"made": (parts["picture"], [parts]), "none": None},
}


class Sounding(Pipe):
    """Sound beside pictures."""

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        x, sounds = NOISE, NOISE.sum(2)
        for t in self.scheduler.timesteps:
            out = self.net(x, t)
            if isinstance(out, dict) and "made" in out:
                out = out["made"][1][0]
            if hasattr(out, "picture"):
                picture, sound, number = out.picture, out.sound, out.number
            else:
                picture, sound, number, *_ = out.values() if isinstance(out, dict) else out
            assert number.tolist() == [3, 4]
            picture *= 1.1  # in place
            sounds = sounds + sound.float() / N
            x = self.scheduler.step(picture, t, x).prev_sample
        return x, sounds


@pytest.mark.parametrize("kind", CLASSES)
def test_outputs_of_any_class(kind):
    def wrap(y: torch.Tensor) -> Any:
        return CLASSES[kind](picture=y, sound=y.double().sum(2), number=torch.tensor([3, 4]))

    check(Sounding(Net(wrap)))


def test_a_number_and_waves_among_the_outputs():
    class Waves(Pipe):
        def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
            mean, waves = self.net(x, t)
            return torch.fft.irfft(waves, dim=1) + mean

    check(Waves(Net(lambda y: (y.mean(), torch.fft.rfft(y, dim=1)))))
    check(Waves(Net(lambda y: (0.0, torch.fft.rfft(y, dim=1)))))


def test_an_output_without_predictions_is_refused():
    class Strange(Pipe):
        def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
            return self.net(x, t).y

    pipe = Strange(Net(lambda y: SimpleNamespace(y=y)))
    pipe()
    with guide(pipe, "full"):
        pipe()
    with guide(pipe, WORDS), pytest.raises(UnsupportedPipelineError, match="gave a SimpleNamespace, in which there is"):
        pipe()


# --- times ------------------------------------------------------------------------------------------------------


class Timesteps(Net):
    def forward(self, hidden_states: Any, timesteps: Any) -> Any:
        return self.predict(hidden_states, timesteps)


class T(Net):
    def forward(self, x: Any, t: Any) -> Any:
        return self.predict(x, t)


class Sigma(Net):
    def forward(self, z: Any, sigma: Any) -> Any:
        return self.predict(z, 1000 * torch.as_tensor(sigma))


class TimeFirst(Net):
    def forward(self, time: Any, cond: Any, z: Any) -> Any:
        return self.predict(z, time, cond)


GIVEN: dict[str, Callable[[Any], Any]] = {
    "itself": lambda t: t,
    "a number": lambda t: float(t),
    "a row": lambda t: torch.as_tensor(t).repeat(2),
    "a share": lambda t: t / 1000,
    "reversed": lambda t: 1 - torch.as_tensor(t).expand(2) / 1000,
    "a token": lambda t: torch.cat([torch.zeros(2, 1), torch.as_tensor(t).repeat(2, 7)], dim=1),
}


class Other(Pipe):
    """The loop's timestep has another name, and there are others beside it."""

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        x, sigmas = NOISE, self.scheduler.sigmas
        weights = torch.linspace(1, 2, 2 * N)
        for i, now in enumerate(self.scheduler.timesteps):
            weight, sigma = weights[2 * i], sigmas[i + 1]
            y = self.predict(x, now) * weight + 0 * sigma
            x = self.scheduler.step(y, now, x).prev_sample
        return x


class Numbers(Pipe):
    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        x = NOISE
        for time in self.scheduler.timesteps.tolist():
            x = self.scheduler.step(self.predict(x, time), torch.tensor(time), x).prev_sample
        return x


class Counting(Pipe):
    """The loop's variable is a number of the step."""

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        x = NOISE
        for i in range(N):
            x = self.scheduler.step(
                self.predict(x, self.scheduler.timesteps[i]), self.scheduler.timesteps[i], x
            ).prev_sample
        return x


class Elsewhere(Pipe):
    """The list is its own."""

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        self.times = self.scheduler.timesteps.clone()
        x = NOISE
        for now in self.times:
            x = self.scheduler.step(self.predict(x, now), now, x).prev_sample
        return x


class Helped(Pipe):
    """The whole loop is in a helper method, and the denoiser's call in another one."""

    @torch.no_grad()
    def __call__(self) -> Any:
        self.scheduler.set_timesteps(N)
        return self.denoise(NOISE)

    def denoise(self, latents: torch.Tensor) -> torch.Tensor:
        for step, now in enumerate(self.scheduler.timesteps):
            latents = self.take(step, now, latents)
        return latents

    def take(self, step: int, now: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return self.scheduler.step(self.predict(latents, now), now, latents).prev_sample


def giving(kind: Any, given: Callable[[Any], Any]) -> Any:
    class Giving(kind):
        def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
            return self.net(x, given(t))

    return Giving()


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", [Pipe, Other, Numbers, Counting, Elsewhere, Helped])
def test_the_step_is_found_in_any_loop(kind, given):
    check(giving(kind, GIVEN[given]))


def test_a_rounded_time_tells_the_step_in_a_loop_that_says_its_own():
    for kind in (Pipe, Other, Counting, Helped):
        check(giving(kind, lambda t: t.long()))
    pipe = giving(Numbers, lambda t: int(t) - 1)
    refused = pytest.raises(UnsupportedPipelineError, match=r"999\.0, which is not in its scheduler's list")
    with counted() as seen, guide(pipe, WORDS), refused:
        pipe()
    assert not seen


@pytest.mark.parametrize("make", [lambda t: t.expand(1), lambda t: t[None], lambda t: t * torch.ones(1)])
def test_the_timestep_of_a_single_image_is_no_list(make):
    class Single(Pipe):
        @torch.no_grad()
        def __call__(self) -> Any:
            self.scheduler.set_timesteps(N)
            x = NOISE[:1]
            for t_now in self.scheduler.timesteps:
                ts = make(t_now)
                x = self.scheduler.step(self.net(x, ts, TEXT[:1]), t_now, x).prev_sample
            return x

    check(Single())


@pytest.mark.parametrize("net", [Timesteps, T])
def test_the_timestep_of_any_name(net):
    check(Pipe(net()))


def test_sigmas():
    class OverSigmas(Pipe):
        @torch.no_grad()
        def __call__(self) -> Any:
            self.scheduler.set_timesteps(N)
            x = NOISE
            for sigma, t in zip(self.scheduler.sigmas, self.scheduler.timesteps, strict=False):
                x = self.scheduler.step(self.net(x, sigma), t, x).prev_sample
            return x

    class Alone(OverSigmas):
        """It steps by itself."""

        @torch.no_grad()
        def __call__(self) -> Any:
            self.scheduler.set_timesteps(N)
            x, sigmas = NOISE, self.scheduler.sigmas
            for sigma, after in pairwise(sigmas):
                x = x + (after - sigma) * self.net(x, sigma)
                self.scheduler.taken += 1
            return x

    for kind in (OverSigmas, Alone):
        check(kind(Sigma()))


def test_the_latents_come_last():
    class Turned(Pipe):
        def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
            return self.net(t, TEXT, x)

    check(Turned(TimeFirst()))


# --- calls ------------------------------------------------------------------------------------------------------


class Three(Pipe):
    """Three calls a step, of which one is given something more."""

    def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        text, null = self.net(x, t, TEXT), self.net(x, timestep=t, prompts=NULL)
        return null + 2 * (text - null) + 0.1 * self.net(sample=0.5 * x, timestep=t, prompts=0.5 * TEXT)


class Two(Pipe):
    """Two denoisers in each step."""

    def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        return self.net(x, t) + 0.3 * self.second(0.5 * x, t, TEXT)


class Turns(Pipe):
    """One for the noisy steps, and one for the others."""

    def predict(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        return self.net(x, t) if t >= 600 else self.second(x, t)


class Arguments(Net):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrap(self.predict(*args, **kwargs))


class Wrapping(torch.nn.Module):
    """What is around a denoiser, as PEFT's models are."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.inner = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Counts(Net):
    """It reads and writes attributes of itself, and asks for its own class."""

    scale, calls, mean = 1.0, 0, None

    def forward(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        assert type(self).__name__ == "Counts"
        self.calls += 1
        y = super().forward(sample, timestep) * self.scale
        self.mean = torch.zeros_like(y) if self.mean is None else self.mean
        self.mean += 0.1 * y
        return y


def test_several_calls_in_a_step():
    check(Three())


def test_several_denoisers():
    check(Two(second=Net()))
    pipe = Turns(second=Net())
    pipe.scheduler.set_timesteps(N)
    begin = int((pipe.scheduler.timesteps >= 600).sum())
    check(pipe, calls=len({*GUIDED, begin, begin + 1}))


def test_a_wrapper_that_hands_on_whatever_it_is_given():
    check(Pipe(Wrapping(Net())))
    with pytest.raises(UnsupportedPipelineError, match="has no part that is given a timestep"):
        guide(Pipe(Arguments()), "full")


def test_a_denoiser_that_reads_and_writes_attributes_of_itself():
    pipe = Pipe(Counts())
    with guide(pipe, WORDS):
        pipe()
    assert pipe.net.calls == len(GUIDED)
    pipe.net.scale = 0.9
    stock = pipe()
    with guide(pipe, "full"):
        assert torch.equal(pipe(), stock)
    (pipe.net(NOISE, 100) * pipe.net.mean).sum().backward()


def test_a_pipeline_without_a_scheduler_is_refused():
    with pytest.raises(UnsupportedPipelineError, match="Pipe has no scheduler, whose list of timesteps tells"):
        guide(Pipe(scheduler=None), "every:2")


def test_a_scheduler_of_another_name():
    class Sampled(Pipe):
        @torch.no_grad()
        def __call__(self) -> Any:
            self.sampler.set_timesteps(N)
            x = NOISE
            for t in self.sampler.timesteps:
                x = self.sampler.step(self.net(x, self.given(t)), t, x).prev_sample
            return x

    for given in GIVEN.values():
        pipe = Sampled(given=given)
        pipe.sampler = pipe.scheduler
        with extrapolated(pipe, lambda step, pipe=pipe: pipe.sampler.sigmas[step].item()):
            expected = pipe()
        del pipe.scheduler
        with guide(pipe, WORDS) as spent:
            assert error(pipe(), expected) < 1e-5
        assert spent.calls == len(GUIDED)


def test_what_moves_under_a_name_that_nobody_knows_is_no_change():
    moving = Conditions()
    for n in range(4):
        assert not moving.change({"z": torch.ones(2) * n, "cond": TEXT}, "z", None)
    assert moving.change({"z": torch.ones(2), "cond": NULL}, "z", None)
    # What is another one once was changed, by a callback; it is known when it does not move again.
    once = Conditions()
    changes = [once.change({"sample": NOISE, "cond": cond}, "sample", None) for cond in (TEXT, NULL, NULL, NULL, TEXT)]
    assert changes == [False, False, True, False, True]


# --- classes that derive from one that is known -----------------------------------------------------------------


class Parts(diffusers.StableDiffusionPipeline):
    """Calls of other layouts than Stable Diffusion's."""

    images = 1

    @torch.no_grad()
    def __call__(self, prompt: list[str], num_inference_steps: int = N) -> torch.Tensor:
        self._guidance_scale = 3.0
        self.scheduler.set_timesteps(num_inference_steps)
        x = naive.noise([3, 4][: self.images])
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.combined(x, t), t, x).prev_sample
        return x

    def combined(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ThreeBranches(Parts):
    def combined(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        conditions = normal(5, 3 * len(x), 77, 16)
        a, b, c = self.unet(x.repeat(3, 1, 1, 1), t, conditions).sample.chunk(3)
        return a + 2 * (b - a) + 0.5 * (c - a)


class ThreeCalls(Parts):
    def combined(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, b, c = (self.unet(x, t, normal(5 + n, len(x), 77, 16)).sample for n in range(3))
        return a + 2 * (b - a) + 0.5 * (c - a)


class OtherArguments(Parts):
    """Rows of which it is not known whether they are those of the batch."""

    def combined(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        mine = normal(6, 2 * len(x), 3)
        null, text = self.unet(torch.cat([x, x]), t, normal(5, 2 * len(x), 77, 16), mine=mine).sample.chunk(2)
        return null + 2 * (text - null)


class Taking(diffusers.UNet2DConditionModel):
    def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any, mine: Any) -> Any:
        return super().forward(sample, timestep, encoder_hidden_states + mine.mean())


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (ThreeBranches, "not the latents twice"),
        (ThreeCalls, "not the latents twice"),
        (OtherArguments, "entries of mine, of which is not known"),
    ],
)
def test_another_layout_than_its_class_s_is_refused_where_a_branch_is_dropped_and_right_otherwise(
    make_pipe, kind, sentence, images
):
    pipe = kind(**make_pipe().components, requires_safety_checker=False)
    pipe.images = images
    if kind is OtherArguments:
        pipe.unet.__class__ = Taking
    rows: list[int] = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        stock = pipe(PROMPTS)
        once = rows[0]
        rows.clear()
        with text_until(pipe, 2), pytest.raises(ShapefirstError, match=sentence):
            pipe(PROMPTS)
        assert not rows
        with guide(pipe, WORDS) as spent:
            made = pipe(PROMPTS)
        assert sum(rows) == spent.rows == spent.asked * len(GUIDED) // N == once * len(rows)
        assert 1e-5 < naive.error(made, stock) < 0.5
        rows.clear()
        with guide(pipe, budget=0.6) as spent:
            pipe(PROMPTS)
        assert sum(rows) == spent.rows == 0.6 * spent.asked
        with guide(pipe, "full"):
            assert torch.equal(pipe(PROMPTS), stock)
    finally:
        if kind is OtherArguments:
            pipe.unet.__class__ = diffusers.UNet2DConditionModel


def test_a_class_whose_code_betrays_another_layout_is_not_taken_for_its_base(make_pipe):
    class Betraying(Parts):
        @torch.no_grad()
        def __call__(self, prompt: Any, image_guidance_scale: float = 1.5) -> Any:
            raise NotImplementedError

    pipe = Betraying(**make_pipe().components, requires_safety_checker=False)
    with pytest.raises(UnsupportedPipelineError, match="none can be dropped"):
        text_until(pipe, 2)
    guide(pipe, budget=0.6)
