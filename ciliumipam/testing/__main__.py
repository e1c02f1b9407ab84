"""`python -m ciliumipam.testing`: walk all scenarios of the interleaving checker and print what was seen."""

import logging

from ciliumipam.testing.interleave import Checker
from ciliumipam.testing.scenarios import scenarios

logging.disable()  # what agents would tell somebody at night, thousands of times
states = steps = 0
for scenario in scenarios():
    walked = Checker(scenario).walk()
    states, steps = states + walked.states, steps + walked.steps
    print(f"{walked.states:>9,} states {walked.steps:>10,} steps  {scenario.name}", flush=True)
print(f"{states:>9,} states {steps:>10,} steps  in {len(scenarios())} scenarios, no invariant broken")
