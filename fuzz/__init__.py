"""Every decoder of poolnet, fed with what nobody would send: one list of them, for the tests and for ``make fuzz``.

``decoders.py`` lists them with valid examples (``samples.py``) and the errors that each may raise, ``stored.py`` adds
the files of a home; ``mutations.py`` changes valid encodings; ``python -m fuzz`` searches with atheris. What it finds
is mended, and pinned in ``tests/test_fuzz_findings.py``.
"""
