"""What the embedded models are trained on: words, scenes, and how a scene is painted.

It imports only ``words`` and errors. A noun or attribute more is an entry in ``vocabulary``, and needs new training.
"""
