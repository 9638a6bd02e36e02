"""How much the tests notice: small faults are put into the pure layers, one at a time, and tests must fail.

``changes.py`` makes the faults (mutants) of a module, ``reach.py`` knows which tests run which lines, ``trial.py`` runs
the tests of one mutant in a process of its own, ``equivalent.py`` lists the mutants that change nothing, with reasons,
and ``python -m mutants`` draws a sample, tries it and lists what survived. Nothing is ever written into this tree.

Why not a tool that is there: mutmut 3 changes function bodies only, so it finds nothing to change in the frames of
``poolnet/wire``, whose fields and limits are declarations; cosmic-ray starts a test run from nothing for each mutant,
with one command for all of them.
"""
