"""Pairs of models with known answers: the demo pair, the test-suite's tiny pair and their text."""
