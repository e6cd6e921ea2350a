"""What a study finds: claims with intervals and verdicts, tables, and how they are stored and read again.

It imports ``measure`` and ``drawing``. One more kind of content is a field of ``finding.Finding`` and its file in
``storage``; one more study is an entry in ``order``.
"""
