"""Stage: tokenizer and text encoder, in the manner of CLIP (Radford et al. 2021).

Causal, 77 positions, [SOS] words [EOS] and padding with [EOS] as in Stable Diffusion 1.5, pooled at the first [EOS].
Trained contrastively against a convolutional image encoder; then a small vision transformer is trained against the
text encoder, and the pair is kept as a ``CLIPModel``, pocket's CLIPScore.
"""

from __future__ import annotations

import json
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from shapefirst.measure.judge import SIZES, Judge
from shapefirst.training.judge import answered
from shapefirst.training.loop import Recipe, TrainingRun, fit, mixed_precision
from shapefirst.world.renders import Renders
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS, RELATIONS

POSITIONS, WIDTH = 77, 192
#: No caption of the world is longer than this, with [SOS] and the first [EOS].
LONGEST = 16
#: The other steps see no position after LONGEST, which takes a fifth of the time.
ALL_POSITIONS_EVERY = 5
#: Everyday words beside the world's, so that other English prompts fall into fewer, more natural pieces.
EVERYDAY = """
in on of to for with without by at from under over near behind beside between inside outside next front side top bottom
is are was has it its this that these those an one two three some very big small tall short old new young round square
man woman boy girl person people child photo picture painting drawing image view scene day night light dark color
standing sitting holding looking running playing eating flying sleeping wearing street room table chair door window
grass road field beach city kitchen food plate bowl bottle box ball book phone train bus bike boat bird dog sheep cow
""".split()  # noqa: SIM905


def build_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE with CLIP's conventions: every text tokenises, every word of the world is one token."""
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    world = " ".join(["a", *NOUNS, *ATTRIBUTES, *RELATIONS]).split()
    # The world's words come often enough to be merged to the end before any other word is. No two words come equally
    # often: the trainer breaks ties between pairs of letters by the order of a hash table, another one in each process.
    dice = random.Random(0)
    often = dict(zip(EVERYDAY, dice.sample(range(1, 1000), len(EVERYDAY)), strict=True))
    often |= dict(zip(world, dice.sample(range(10_000, 20_000), len(world)), strict=True))
    raw.train_from_iterator(([word] * count for word, count in often.items()), trainer)
    learnt = json.loads(raw.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # A word's last letter carries the suffix, so each byte needs both of its forms to be spelt out.
    tokens = [*alphabet, *(a + "</w>" for a in alphabet)]
    tokens += [t for t in learnt["vocab"] if t not in set(tokens)]
    vocab = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(m) for m in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The untrained pair: text 3 layers x 192, vision transformer 3 layers x 128 on 8 x 8 patches."""
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": POSITIONS,
        "projection_dim": 128,
        "pad_token_id": tokenizer.pad_token_id,
        **special,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 128,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def train_text(
    renders: Renders, teacher: Judge, recipe: Recipe, run: TrainingRun, *, padding: bool = True
) -> tuple[CLIPTokenizer, CLIPModel]:
    """Contrastive training of the text encoder against the features of ``teacher``, a convolutional image encoder.

    Convolutions find silhouettes within minutes, which the vision transformer of a ``CLIPModel`` does not: trained
    together, the two learned the attributes and left the nouns out. The transformer follows in ``sharpen``.

    The prompt is read at its first [EOS], which is what the pair is pooled at, and at a random one of the padding: the
    denoiser attends to all of them, and those that no loss reaches keep the first noun of a prompt and lose the second.

    Contrast alone leaves out which of two objects is where, as the rest of a batch is told apart without it
    (Yuksekgonul et al. 2023, arXiv 2210.01936). So both places also answer the judge's questions: what comes first in
    the image in reading order, and what second.

    Without ``padding`` no loss reaches a position after the first [EOS], as in CLIP.

    Identical captions within a batch all count as positives. In every other step all images share their (first)
    attribute: among mixed ones the attribute alone tells most captions apart, and the nouns would be learned last.
    """
    torch.manual_seed(run.seed)
    tokenizer = build_tokenizer()
    clip = build_clip(tokenizer)
    features = teacher.to(run.device).features_of(renders).to(run.device)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    learning = nn.ModuleDict(
        {
            "text": clip.text_model,
            "projection": clip.text_projection,
            "seen": nn.Linear(features.shape[1], clip.projection_dim, bias=False),
            "answers": nn.Linear(WIDTH, sum(SIZES)),
            "scale": nn.ParameterDict({"log": clip.logit_scale}),
        }
    ).to(run.device)
    tokens = tokenizer(renders.captions, padding="max_length", return_tensors="pt").input_ids.to(run.device)
    labels = renders.labels.to(run.device)
    first_eos = (tokens == tokenizer.eos_token_id).int().argmax(1)
    same_attribute = _by_attribute(renders)

    def loss(step: int, g: torch.Generator) -> dict[str, Tensor]:
        index = _draw(step, g, recipe.batch, len(renders), same_attribute).to(run.device)
        length = POSITIONS if step % ALL_POSITIONS_EVERY == 0 else LONGEST
        ids = tokens[index, :length]
        first = first_eos[index]
        later = first + (torch.rand(len(first), generator=g).to(run.device) * (length - first)).long()
        later = later if padding else first
        with mixed_precision(run.device):
            states = learning["text"](ids).last_hidden_state
            read = [states[torch.arange(len(ids)), at] for at in (first, later)]
            said = [learning["projection"](x) for x in read]
            seen = F.normalize(learning["seen"](features[index]).float(), dim=-1)
        scale = learning["scale"]["log"].exp().clamp(max=100)
        same = (ids[:, None] == ids[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        logits, of_padding = (scale * F.normalize(x.float(), dim=-1) @ seen.T for x in said)
        contrast = sum(F.cross_entropy(q, target) + F.cross_entropy(q.T, target) for q in (logits, of_padding)) / 4
        answers = [learning["answers"](x).split(SIZES, dim=-1) for x in read]
        (at_first, _), (at_later, right) = (answered(answer, labels[index]) for answer in answers)
        accuracy = (same.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()
        return {"loss": contrast + (at_first + at_later) / 2, "accuracy": accuracy, "all_right": right}

    learning.load_state_dict(fit("text", learning, loss, recipe, run))
    return tokenizer, clip.cpu().eval()


def sharpen(renders: Renders, tokenizer: CLIPTokenizer, clip: CLIPModel, recipe: Recipe, run: TrainingRun) -> CLIPModel:
    """Go on with the image encoder alone, against the finished text encoder (Zhai et al. 2022, "LiT").

    The denoiser depends on the text encoder and no longer changes it; the pair still gains as a score.
    """
    torch.manual_seed(run.seed)
    clip = clip.to(run.device)
    captions = list(dict.fromkeys(renders.captions))
    row = {c: i for i, c in enumerate(captions)}
    rows = torch.tensor([row[c] for c in renders.captions])
    with torch.no_grad():
        parts = [
            tokenizer(
                captions[i : i + 256], padding="max_length", max_length=LONGEST, return_tensors="pt"
            ).input_ids.to(run.device)
            for i in range(0, len(captions), 256)
        ]
        names = torch.cat([clip.text_projection(clip.text_model(ids).pooler_output) for ids in parts])
        names = F.normalize(names, dim=-1)
    eyes = nn.ModuleDict({"vision": clip.vision_model, "projection": clip.visual_projection})
    same_attribute = _by_attribute(renders)

    def loss(step: int, g: torch.Generator) -> dict[str, Tensor]:
        index = _draw(step, g, recipe.batch, len(renders), same_attribute)
        seen = eyes["projection"](eyes["vision"](renders.batch(index, run.device)).pooler_output)
        same = (rows[index][:, None] == rows[index][None]).float().to(run.device)
        logits = clip.logit_scale.exp().detach() * F.normalize(seen, dim=-1) @ names[rows[index]].T
        contrast = F.cross_entropy(logits, same / same.sum(1, keepdim=True))
        return {"loss": contrast, "accuracy": (same.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()}

    eyes.load_state_dict(fit("vision", eyes, loss, recipe, run))
    return clip.cpu().eval()


def _by_attribute(renders: Renders) -> list[Tensor]:
    """The indices of the images whose first object has one attribute, for each attribute."""
    attributes = renders.labels[:, 1]
    return [(attributes == a).nonzero().squeeze(1) for a in attributes.unique()]


def _draw(step: int, g: torch.Generator, batch: int, count: int, same_attribute: list[Tensor]) -> Tensor:
    """A batch of indices: mixed in even steps, of one attribute in odd ones."""
    if step % 2 == 0:
        return torch.randint(count, (batch,), generator=g)
    pool = same_attribute[int(torch.randint(len(same_attribute), (), generator=g))]
    return pool[torch.randint(len(pool), (batch,), generator=g)]
