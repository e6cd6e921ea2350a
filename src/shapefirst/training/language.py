"""Stage: a T5 tokenizer and encoder, trained for T5's own task and never for pictures (Raffel et al. 2020).

Words are hidden in short texts about scenes, a decoder writes them, and the encoder is kept and frozen. It never sees
an image, and no loss asks what any position of the padding says: attention is bidirectional, a text ends with </s>, and
padding is masked, as in PixArt-alpha.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

from shapefirst.training.loop import Recipe, TrainingRun, fit, mixed_precision
from shapefirst.training.text import EVERYDAY
from shapefirst.world.scenes import Scene, sample_scene
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS, RELATIONS

WIDTH = 192
#: What PixArt-alpha's pipeline pads prompts to.
POSITIONS = 120
#: The share of words that are hidden. T5 hides 0.15 of far longer texts; these end after 5 to 30 words.
HIDDEN_SHARE = 0.25
_SENTINELS = 16
#: As likely as a word of the world is against a letter: a text falls into words wherever it can.
_WORD, _LETTER = -4.0, -12.0
_OTHER_WORDS = "the is a thing there in picture".split()  # noqa: SIM905
#: Where the second object stands when the first stands so.
_OPPOSITE = {
    "and": "and",
    "on the left of": "on the right of",
    "on the right of": "on the left of",
    "above": "below",
    "below": "above",
}
_IGNORED = -100  # by cross-entropy


def build_t5_tokenizer() -> T5Tokenizer:
    """Unigram with T5's conventions: every word of the world is one token, every other English word is spelt out."""
    words = dict.fromkeys([*" ".join([*NOUNS, *ATTRIBUTES, *RELATIONS]).split(), *_OTHER_WORDS, *EVERYDAY])
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", _WORD) for word in words] + [("▁", _LETTER)] + [(c, _LETTER) for c in letters]
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_SENTINELS))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=_SENTINELS, model_max_length=POSITIONS)


def build_language_model(tokenizer: T5Tokenizer) -> T5ForConditionalGeneration:
    """The untrained model: encoder 4 layers x 192, decoder 2, gated GELU as in T5 v1.1, which PixArt-alpha reads."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=32,
            d_ff=384,
            num_layers=4,
            num_decoder_layers=2,
            num_heads=6,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


def text_about(scene: Scene, dice: random.Random) -> str:
    """A text about a scene: its caption, sentences that say parts of it again, or both, in any order.

    What one sentence says another one can be completed from, so that hidden words can be known at all: in captions
    alone every attribute goes with every noun.
    """
    sentences = []
    for thing in scene.objects:
        sentences += [f"the {thing.noun} is {thing.attribute}", f"the {thing.attribute} thing is a {thing.noun}"]
        sentences.append(f"there is a {thing.attribute} {thing.noun}")
    if scene.relation is not None:
        first, second = (thing.noun for thing in scene.objects)
        sentences += [f"the {first} is {scene.relation} the {second}"] if scene.relation != "and" else []
        sentences.append(f"the {second} is {_OPPOSITE[scene.relation]} the {first}".replace("is and", "and"))
    chosen = dice.sample(sentences, dice.randint(0, min(3, len(sentences))))
    if not chosen or dice.random() < 0.8:
        chosen.append(scene.caption)
    dice.shuffle(chosen)
    return ". ".join(chosen)


def hide(words: Sequence[int], sentinels: Sequence[int], dice: random.Random) -> tuple[list[int], list[int]]:
    """T5's task: tokens with spans replaced by sentinels, and the spans, each after its sentinel (neither has </s>).

    Every token is hidden with probability ``HIDDEN_SHARE``, at least one is; neighbours share a sentinel.
    """
    hidden = [dice.random() < HIDDEN_SHARE for _ in words]
    hidden[dice.randrange(len(words))] = True
    read: list[int] = []
    written: list[int] = []
    spans, inside = 0, False
    for word, here in zip(words, hidden, strict=True):
        if here and not inside and spans == len(sentinels):
            here = False
        if here and not inside:
            read.append(sentinels[spans])
            written.append(sentinels[spans])
            spans += 1
        (written if here else read).append(word)
        inside = here
    return read, written


def train_language(recipe: Recipe, run: TrainingRun, texts: int) -> tuple[T5Tokenizer, T5EncoderModel]:
    """Span corruption over ``texts`` texts about scenes, none of which holds a held-out combination."""
    torch.manual_seed(run.seed)
    tokenizer = build_t5_tokenizer()
    model = build_language_model(tokenizer).to(run.device)
    dice, rng = random.Random(run.seed), np.random.default_rng([run.seed, texts])
    written = [text_about(sample_scene(rng), dice) for _ in range(texts)]
    tokens = tokenizer(written, add_special_tokens=False).input_ids
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(_SENTINELS)])
    end = tokenizer.eos_token_id

    def loss(_: int, g: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(tokens), (recipe.batch,), generator=g).tolist()
        dice = random.Random(int(torch.randint(2**62, (), generator=g)))
        pairs = [hide(tokens[i], sentinels, dice) for i in index]
        ids = _padded(([*read, end] for read, _ in pairs), tokenizer.pad_token_id).to(run.device)
        labels = _padded(([*spans, end] for _, spans in pairs), _IGNORED).to(run.device)
        with mixed_precision(run.device):
            out = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels)
        told = labels != _IGNORED
        right = (out.logits.argmax(-1) == labels)[told].float().mean()
        return {"loss": out.loss.float(), "accuracy": right}

    model.load_state_dict(fit("language", model, loss, recipe, run))
    encoder = T5EncoderModel(model.config)
    kept = encoder.state_dict().keys()
    encoder.load_state_dict({name: x for name, x in model.cpu().state_dict().items() if name in kept})
    return tokenizer, encoder.eval()


def _padded(rows: Iterable[Sequence[int]], fill: int) -> Tensor:
    """(b, longest) int64, filled up on the right to a multiple of 8."""
    kept = list(rows)
    longest = -(-max(map(len, kept)) // 8) * 8
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in kept])
