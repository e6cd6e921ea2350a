"""Stable Diffusion 3.5, a flow model: each picture decides for itself which steps it needs, by a tolerance.

    python examples/sd3.py

The weights ask for an agreement on the hub, and are 16 GB.
"""

import torch
from diffusers import StableDiffusion3Pipeline

from shapefirst import guide

PROMPTS = ["a red wooden car", "a crowded market in the rain, seen from above"]

pipe = StableDiffusion3Pipeline.from_pretrained("stabilityai/stable-diffusion-3.5-medium", torch_dtype=torch.bfloat16)
pipe.enable_model_cpu_offload()

for number, prompt in enumerate(PROMPTS):
    with guide(pipe, tol=0.02) as evaluations:
        generator = torch.Generator().manual_seed(number)
        image = pipe(prompt, num_inference_steps=28, guidance_scale=4.5, generator=generator).images[0]
    image.save(f"sd3-{number}.png")
    print(f"{prompt}: {evaluations.rows} of {evaluations.asked} evaluations")
