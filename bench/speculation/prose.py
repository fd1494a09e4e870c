"""Questions that are answered in free prose, of many kinds and topics."""

from .prompt import chat, shuffled

#: Kinds of question, each with what it is asked about.
QUESTIONS = {
    "Explain to a twelve-year-old {}.": [
        "why the sky is blue", "how a vaccine works", "what inflation is", "how a sailing boat can go against the wind",
        "why we sleep", "how bread rises", "what a black hole is", "how a language changes over time",
    ],
    "Write the opening of a short story about {}.": [
        "a lighthouse keeper who receives a letter", "two sisters who inherit a bakery", "the last train of the night",
        "a robot that learns to garden", "a map that is always wrong by one street", "a violin found in an attic",
        "a village where nobody lies", "a winter that does not end",
    ],
    "Discuss the arguments for and against {}.": [
        "a four-day working week", "homework in primary school", "nuclear power", "keeping cats indoors",
        "free public transport", "learning Latin today", "building cities upwards", "paying with cash",
    ],
    "Write a letter in which {}.": [
        "a tenant asks the landlord to repair the heating", "an old friend apologises for a long silence",
        "a gardener praises a neighbour's roses", "a student thanks a teacher", "a traveller describes a night market",
        "a cook turns down a job abroad", "a grandmother advises a newlywed", "a reader complains about a misprint",
    ],
    "Give advice to somebody who {}.": [
        "wants to start running at fifty", "has to give a first speech", "moves to a city without knowing anyone",
        "keeps putting off unpleasant tasks", "wants to read more", "has a noisy neighbour",
        "plans a long journey by bicycle", "wants to learn to cook without recipes",
    ],
    "Describe {} in a few vivid paragraphs.": [
        "a harbour at dawn", "the library of a monastery", "a thunderstorm over a plain", "a railway station at noon",
        "an orchard in autumn", "a kitchen before a feast", "a desert after rain", "an empty theatre",
    ],
}


def prompts():
    topics = [(question, topic) for question, all_topics in QUESTIONS.items() for topic in all_topics]
    return [chat(f"prose/{topic}", question.format(topic)) for question, topic in shuffled("prose", topics)]
