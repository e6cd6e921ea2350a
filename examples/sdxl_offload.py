"""Stable Diffusion XL on a small card: CPU offload, DPM++ 2M Karras, and the same picture with 75% of the evaluations.

    python examples/sdxl_offload.py "a red wooden car on a beach"

It writes stock.png and budget.png, and says how far they are apart. The weights are 7 GB, downloaded once.
"""

import sys

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

from shapefirst import guide
from shapefirst.measure import l1

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red wooden car"
pipe = StableDiffusionXLPipeline.from_pretrained(
    "stabilityai/stable-diffusion-xl-base-1.0", torch_dtype=torch.float16, variant="fp16"
)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
pipe.enable_model_cpu_offload()


def picture():
    generator = torch.Generator().manual_seed(0)  # one for each picture, or they are two different pictures
    return pipe(prompt, num_inference_steps=25, generator=generator).images[0]


stock = picture()
stock.save("stock.png")
with guide(pipe, budget=0.75) as evaluations:
    kept = picture()
kept.save("budget.png")
# No seconds: a first run pays for what later ones do not, so one of each would say nothing of the saving.
print(f"{evaluations.saved:.0%} of the evaluations saved: {evaluations.rows} instead of {evaluations.asked}")
print(f"L1 in [0, 1] between the two: {l1(stock, kept):.4f}")
