"""The studio: a page on this machine where one samples, compares and looks into a run. `shapefirst studio` opens it.

settings    what is asked for, checked; as a link
offer       what the studio was started with: models, tuned policies, reports
repeating   the same as a command line and as Python
turns       one job at a time, in a queue with places; errands between the steps of a job
making      a job: the full and the saved picture, and what was seen on the way
looking     a step of a run to look at: x0, its low and high frequencies, the map of a word
shelf       what is remembered of each tab, and the pictures, all in memory
showing     results as HTML, escaped
page        the page, in Gradio
serving     what a visitor may ask the server for

It imports ``images``, ``attention``, ``sampling``, ``measure``, ``policies``, ``prompts`` and ``models``. All but
``page`` and ``serving`` know no Gradio. One more setting is a field of ``settings.StudioSettings`` and a control in
``page``; one more thing to see is a function in ``looking``.
"""
