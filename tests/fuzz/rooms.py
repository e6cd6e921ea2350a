"""Public functions of the rooms around the pipelines, with arguments that they work with; see `arguments`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fuzz.stored import finding

__all__ = ["ABSENT", "rooms"]

#: Those that are asked for what there is not.
ABSENT = ("read_gaussian", "load_clip", "load_vqa", "load_vlm", "load_inception")


def rooms(pipe: Any, folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name -> a public function and arguments that it works with."""
    return {**_measure(), **_models(pipe), **_images(pipe), **_tuning(), **_sweep(), **_findings(folder), **_world()}


def _measure() -> dict[str, Any]:
    from shapefirst.measure import intervals, shapes, spectrum
    from shapefirst.measure.clip import load_clip
    from shapefirst.measure.frechet import read_gaussian
    from shapefirst.measure.inception import load_inception
    from shapefirst.measure.scores import check_scores
    from shapefirst.measure.vlm import load_vlm
    from shapefirst.measure.vqa import load_vqa, questions
    from shapefirst.prompts import Prompt

    values, mask, grey = np.arange(4.0), np.eye(4, dtype=bool), Image.new("RGB", (16, 16), "grey")
    rule = intervals.Rule("above", 0.5)
    return {
        "bootstrap": (intervals.bootstrap, {"values": values}),
        "hardest": (intervals.hardest, {"parts": [values, values], "rule": rule}),
        "jackknife": (intervals.jackknife, {"estimate": 1.0, "without": [0.9, 1.1], "n": 4}),
        "measured": (intervals.measured, {"values": values}),
        "of_prompts": (intervals.of_prompts, {"values": values, "prompts": [0, 0, 1, 1]}),
        "Rule": (intervals.Rule, {"side": "above", "threshold": 0.5}),
        "Interval": (intervals.Interval, {"estimate": 0.5, "low": 0.0, "high": 1.0, "n": 4}),
        "otsu": (shapes.otsu, {"values": values}),
        "binarise": (shapes.binarise, {"maps": np.eye(4)}),
        "f1": (shapes.f1, {"mask": mask, "reference": mask}),
        "iou": (shapes.iou, {"mask": mask, "reference": mask}),
        "resize": (shapes.resize, {"maps": np.eye(4), "size": (8, 8)}),
        "silhouette_of": (shapes.silhouette_of, {"image": grey}),
        "radius": (spectrum.radius, {"height": 4, "width": 4}),
        "radial_bands": (spectrum.radial_bands, {"height": 4, "width": 4}),
        "low_high_bands": (spectrum.low_high_bands, {"height": 4, "width": 4, "cutoff": 1.0}),
        "split": (spectrum.split, {"x": torch.zeros(1, 4, 4), "cutoff": 1.0}),
        "pixels": (spectrum.pixels, {"images": [grey]}),
        "read_gaussian": (read_gaussian, {"path": "nowhere.npz"}),
        "check_scores": (check_scores, {"names": ["vqa"]}),
        "questions": (questions, {"prompt": Prompt("a red car")}),
        **{f.__name__: (f, {"id_or_folder": "nobody-has-it"}) for f in (load_clip, load_vqa, load_vlm)},
        "load_inception": (load_inception, {"file": "nowhere"}),
    }


def _models(pipe: Any) -> dict[str, Any]:
    from shapefirst import models
    from shapefirst.models.machine import find_device, hardware
    from shapefirst.models.pipelines import pipeline_of

    config = pipe.scheduler.config
    return {
        "is_pocket": (models.is_pocket, {"name": "pocket"}),
        "default_guidance_scale": (models.default_guidance_scale, {"name": "pocket"}),
        "sampler_info": (models.sampler_info, {"name": "ddim"}),
        "make_sampler": (models.make_sampler, {"name": "ddim", "config": config}),
        "with_sampler": (models.with_sampler, {"pipe": pipe, "name": "euler"}),
        "find": (models.find, {"name": "pocket"}),
        "locate": (models.locate, {"name": "pocket"}),
        "usual_sampler": (models.usual_sampler, {"place": models.find("pocket")}),
        "check_samplers": (models.check_samplers, {"place": models.find("pocket"), "names": ["ddim"]}),
        "files_of_model": (models.files_of_model, {"place": models.find("pocket")}),
        "find_device": (find_device, {"device": "cpu"}),
        "hardware": (hardware, {"device": "cpu"}),
        "pipeline_of": (pipeline_of, {"name": "FluxPipeline"}),
    }


def _images(pipe: Any) -> dict[str, Any]:
    from shapefirst import TextSchedule
    from shapefirst.images import jobs

    sampling = jobs.Sampling(3.0, 2)
    given = {"pipe": pipe, "jobs": jobs.make_jobs(["a cat"], 1, 0), "schedules": {"": TextSchedule.until(1)}}
    return {
        "make_jobs": (jobs.make_jobs, {"prompts": ["a cat"], "num_images": 1, "seed": 0}),
        "Sampling": (jobs.Sampling, {"guidance_scale": 3.0}),
        "Job": (jobs.Job, {"prompt": "a cat", "seed": 0}),
        "generate": (jobs.generate, {**given, "sampling": sampling}),
        "cut_text": (jobs.cut_text, {"pipe": pipe, "prompt": "a cat"}),
    }


def _tuning() -> dict[str, Any]:
    from shapefirst.tuning import candidates

    all_of_them = candidates.candidates(12)
    found = [candidates.Found(one, 0.3, (0.01, 0.02)) for one in all_of_them[:2]]
    return {
        "candidates": (candidates.candidates, {"steps": 12}),
        "check_choice": (candidates.check_choice, {"save_time": 0.3, "max_l1": None}),
        "choose": (candidates.choose, {"found": found}),
        "shortlist": (candidates.shortlist, {"among": all_of_them, "scores": {}}),
    }


def _sweep() -> dict[str, Any]:
    from shapefirst.sweep import cost, grid
    from shapefirst.sweep.store import Store

    small = grid.Grid(steps=(4,), text_steps=("50%",), count=2)
    return {
        "Grid": (grid.Grid, {"steps": (4,), "text_steps": ("50%",), "count": 2}),
        "Shards": (grid.Shards, {"grid": small, "prompts": grid.prompts_of(small)}),
        "Store": (Store, {"url": "memory://rooms"}),
        "read_grid": (grid.read_grid, {"file": None, "given": {"steps": [4]}}),
        "prompts_of": (grid.prompts_of, {"grid": small}),
        "cost_of": (cost.cost_of, {"shards": grid.Shards(small, grid.prompts_of(small))}),
        "disk_bytes": (cost.disk_bytes, {"shards": grid.Shards(small, grid.prompts_of(small))}),
    }


def _findings(folder: Path) -> dict[str, Any]:
    from shapefirst.findings import storage
    from shapefirst.findings.finding import claim, subject_to
    from shapefirst.measure.intervals import Interval, Rule
    from shapefirst.report import render_report, write_report

    finding(folder / "findings")
    stored = storage.load_all(folder / "findings")
    said = {"statement": "It is so.", "paper": "It is.", "quantity": "x", "found": Interval(1.0, 0.9, 1.1, 4)}
    made = claim(**said, rule=Rule("above", 0.5))
    return {
        "claim": (claim, {**said, "rule": Rule("above", 0.5)}),
        "subject_to": (subject_to, {"control": made, "found": made, "why": "as it is"}),
        "load_stored": (storage.load_stored, {"out": folder / "findings", "name": stored[0].name}),
        "load_all": (storage.load_all, {"out": folder / "findings"}),
        "mismatch": (storage.mismatch, {"stored": stored[0].setting, "wanted": replace(stored[0].setting, seed=9)}),
        "render_report": (render_report, {"stored": stored}),
        "write_report": (write_report, {"out": folder / "findings"}),
    }


def _world() -> dict[str, Any]:
    from shapefirst.world import scenes, vocabulary

    dice = np.random.default_rng(0)
    scene = scenes.sample_scene(dice)
    return {
        "unknown_words": (vocabulary.unknown_words, {"prompt": "a red wombat"}),
        "sample_scene": (scenes.sample_scene, {"rng": dice}),
        "place": (scenes.place, {"phrases": [("red", "car")], "relation": None, "rng": dice}),
        "render": (scenes.render, {"scene": scene}),
    }
