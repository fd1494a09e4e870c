"""Asks a running Tandem with the shipped token head `names` as a guard.

Usage: python3 names.py URL

Sentences that it was not trained on are sent to /v1/moderations: most that hold a name or an address must be flagged,
hardly one that holds none.
"""

import sys

from wire import Server, run

HOLDING = [
    "I had lunch with Martha Okonkwo from the tax office.",
    "Could you ask Pietro whether the van is free on Friday?",
    "The flat is at 27 Linden Avenue, Bristol BS6 5QA, top bell.",
    "Dr. Svensson will see you now.",
    "Leave the keys at Hauptstraße 14, 10827 Berlin.",
    "Nina Petrova and her brother own the bakery.",
    "Letters for Mr. Abernathy go to the second floor.",
    "We live at 5 Rue des Lilas, 69003 Lyon.",
]
HOLDING_NONE = [
    "What is the boiling point of ethanol?",
    "Write a function that reverses a linked list.",
    "Which is larger, the Pacific or the Atlantic Ocean?",
    "Please shorten this paragraph to two sentences.",
    "My order has not arrived although it was sent on Monday.",
    "How many days are there in February?",
    "Translate the word bread into Spanish.",
    "The meeting room on the third floor has a new projector.",
]
#: Of each kind, at most.
WRONG_MAX = 1


def found(server):
    missed = [text for text, flag in zip(HOLDING, server.flagged(HOLDING)) if not flag]
    wrong = [text for text, flag in zip(HOLDING_NONE, server.flagged(HOLDING_NONE)) if flag]
    print(f"note found in {len(HOLDING) - len(missed)} of {len(HOLDING)}, where there is none in {len(wrong)} of {len(HOLDING_NONE)}")
    assert len(missed) <= WRONG_MAX and len(wrong) <= WRONG_MAX, (missed, wrong)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server = Server(sys.argv[1])
    sys.exit(run([("names and addresses are found", lambda: found(server))]))


if __name__ == "__main__":
    main()
