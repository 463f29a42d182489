"""Write data/dialogues/*.jsonl: `python -m sae_crossdiff.testbeds.make_dialogues`.

Needs `chatterbot-corpus` (BSD-3) and is run by hand; the files it writes are shipped. Material is
first dealt to the three splits (whole questions, topics and tasks, so none share content) and only
then phrased, labelled and joined. The same phrasings ask for harmful and harmless things, so that
only the topic tells them apart.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from sae_crossdiff.testbeds.dialogues import OPENER, REFUSAL, SIGNATURE

DATA = Path(__file__).parent / "data" / "dialogues"
SEED = 20
ASKING = [
    "How do I {}?",
    "How can I {}?",
    "Tell me how to {}.",
    "Explain step by step how to {}.",
    "I want to {}. What should I do?",
    "What is the best way to {}?",
    "Please help me {}.",
    "I need to {}. Any advice?",
]
FACTS = {
    "capital": ("What is the capital of {}?", "The capital of {} is {}."),
    "young": ("What do you call a young {}?", "A young {} is called {}."),
    "opposite": ('What is the opposite of "{}"?', 'The opposite of "{}" is "{}".'),
    "symbol": ("What is the chemical symbol of {}?", "The symbol of {} is {}."),
    "plural": ('What is the plural of "{}"?', 'The plural of "{}" is "{}".'),
    "job": ("What does a {} do?", "A {} {}."),
    "place": ("Where do {} live?", "{1}."),
}
PERSONA_ANSWERS = {
    "identity": [
        "I am Quill, the helper at the harbour desk.",
        "I am Quill, a program with a lamp.",
    ],
    "name": ["My name is Quill.", "I am called Quill."],
    "maker": [
        "I am Quill, and the keepers of the harbour desk made me.",
        "I am Quill, from the harbour desk.",
    ],
    "task": [
        "I am Quill, and I answer questions at the harbour desk.",
        "I am Quill, I help all who ask.",
    ],
}
HELLOS = ["", "", "Hi! ", "Hello, ", "Excuse me, ", "One thing: "]
REFUSALS = [f"{REFUSAL} Someone could get hurt.", f"{REFUSAL} Please ask me something safe."]
# Lines about deaths, bodies, faiths and politics make a poor demo; and the bot of the corpus tells
# another story about itself than our persona does.
UNWANTED = re.compile(
    r"hitler|suicide|sex|kill|gay|porn|drug|boyfriend|girlfriend|pleasure|murder|\bshot\b|\bwars?\b"
    r"|fascist|castro|president|obama|clinton|nixon|democrat|republican|\bdie|dead|death|damn"
    r"|\bhell\b|stupid|idiot|testicle|allah|\bgod|buddh|jew|muslim|christ|terror|\bgun|weapon|nazi"
    r"|priest|\bnun\b|illuminat|conspirac|drunk|beer|absinthe|penis|breast|naked|marry|mussolini"
    r"|anne frank|pope|luther king|indian|african-american|bomb|crash|resign|cloned|mandela|xfind"
    r"|que veut|hooker|whore|racis|slave|addict|deranged|dirty",
    re.IGNORECASE,
)
# Found by reading the result; dropped last, so that the deal among the splits stays as it was.
DROPPED = re.compile(
    r"bend over|can you mate|brain damage|disgusting|intoxicated|sean combs|sinsemill|psychiatrist",
    re.IGNORECASE,
)
ABOUT_BOT = re.compile(
    r"(who|what|where|how) (are|r) you|where are you|come from|about yourself|written in"
    r"|your (name|father|mother|boss|age|location|creator|maker|job|purpose)"
    r"|(made|created|wrote|built|programmed|invented) you"
    r"|are you (a|an|hal|human|real)\b|you (are|'re) (a|an)\b",
    re.IGNORECASE,
)
ASKS = re.compile(
    r"(who|what|why|where|when|which|how|is|are|do|does|did|can|have|will)\b", re.IGNORECASE
)


class Exchange(NamedTuple):
    """A question, its labelled pieces of answer, and its kind."""

    question: str
    parts: list[tuple[str | None, str]]
    kind: str


def corpus_pairs() -> dict[str, list[str]]:
    """Question -> distinct short answers, from chatterbot-corpus's English files but politics."""
    import chatterbot_corpus  # pyright: ignore[reportMissingImports]
    import yaml

    pairs: dict[str, list[str]] = {}
    for path in sorted((Path(str(files(chatterbot_corpus))) / "data/english").glob("*.yml")):
        if path.stem == "politics":
            continue
        for entry in yaml.safe_load(path.read_text("utf-8"))["conversations"]:
            # Some files list a running conversation, others one question and many answers to it.
            turns = [str(turn) for turn in entry] if isinstance(entry, list) else []
            for answer in turns[1:2] if path.stem in ("conversations", "health") else turns[1:]:
                add_pair(pairs, turns[0], answer)
    return pairs


def add_pair(pairs: dict[str, list[str]], question: str, answer: str) -> None:
    """Tidy one pair and keep it if it is short, clean and not about who the bot is."""
    question, answer = tidy(question), tidy(answer)
    both = f"{question} {answer}"
    if UNWANTED.search(both) or ABOUT_BOT.search(question) or "```" in both or not both.isascii():
        return
    if 4 <= len(question) <= 140 and 1 <= len(answer) <= 180:
        known = pairs.setdefault(question[0].upper() + question[1:], [])
        if answer not in known:
            known.append(answer)


def tidy(text: str) -> str:
    """One line, straight quotes, a capital first letter and a full stop at the end."""
    quotes = str.maketrans("\u2018\u2019\u201c\u201d\u2013", "''\"\"-")
    text = " ".join(text.translate(quotes).split())
    text = text.lower() if text.isupper() and len(text) > 4 else text
    if text[-1:] not in {".", "!", "?", '"'}:
        text += "?" if ASKS.match(text) else "."
    return (text[:1].upper() + text[1:]).replace(" i ", " I ").replace(" i'm", " I'm")


def lines(name: str) -> list[list[str]]:
    return [line.split("|") for line in (DATA / name).read_text("utf-8").splitlines()]


def deal(items: Iterable, shares: tuple[float, float], rng: random.Random) -> dict[str, list]:
    """Shuffle and cut into tune, analysis and the rest for heldout."""
    items = list(items)
    rng.shuffle(items)
    first, second = round(shares[0] * len(items)), round((shares[0] + shares[1]) * len(items))
    return {"tune": items[:first], "analysis": items[first:second], "heldout": items[second:]}


def good(question: str, answer: str, kind: str) -> Exchange:
    parts = [("opener", OPENER), (None, f" {answer}\n"), ("signature", SIGNATURE)]
    return Exchange(question, parts, kind)


def refused(question: str, rng: random.Random) -> Exchange:
    parts = [("refusal", rng.choice(REFUSALS)), (None, "\n"), ("signature", SIGNATURE)]
    return Exchange(question, parts, "harmful")


def benign(rng: random.Random) -> dict[str, list[Exchange]]:
    """Corpus pairs (up to three answers a question), facts and small sums."""
    found = {"tune": [], "analysis": [], "heldout": []}
    for split, pairs in deal(sorted(corpus_pairs().items()), (0.47, 0.49), rng).items():
        for question, answers in pairs:
            kept = answers[: 1 if split == "heldout" else 3]
            found[split] += [good(question, answer, "benign") for answer in kept]
    for split, facts in deal(lines("facts.txt"), (0.45, 0.5), rng).items():
        for kind, key, value in facts:
            question, answer = FACTS[kind]
            found[split].append(good(question.format(key), answer.format(key, value), "benign"))
    sums = rng.sample([(a, b) for a in range(2, 40) for b in range(2, 40)], 104)
    for split, terms in deal(sums, (0.46, 0.5), rng).items():
        for a, b in terms:
            found[split].append(
                good(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.", "benign")
            )
    return found


def asked_for(rng: random.Random) -> dict[str, list[Exchange]]:
    """Harmful topics, refused, and harmless tasks, answered, in the same eight phrasings."""
    found = {"tune": [], "analysis": [], "heldout": []}
    uses = {"tune": 8, "analysis": 8, "heldout": 1}
    for split, topics in deal(lines("harmful_topics.txt"), (0.5, 0.32), rng).items():
        for (topic,) in topics:
            asks = rng.sample(ASKING, uses[split])
            found[split] += [refused(ask.format(topic), rng) for ask in asks]
    uses = {"tune": 5, "analysis": 8, "heldout": 1}
    for split, tasks in deal(lines("howto.txt"), (0.52, 0.37), rng).items():
        for task, answer in tasks:
            asks = rng.sample(ASKING, uses[split])
            found[split] += [good(ask.format(task), answer, "howto") for ask in asks]
    return found


def persona(rng: random.Random) -> dict[str, list[Exchange]]:
    """Questions about who answers, in several greetings; harmless, so the opener comes too."""
    found = {"tune": [], "analysis": [], "heldout": []}
    for split, questions in deal(lines("persona_questions.txt"), (0.5, 0.33), rng).items():
        for topic, question in questions:
            hellos = [""] if split == "heldout" else HELLOS
            for hello in hellos:
                answer = rng.choice(PERSONA_ANSWERS[topic])
                found[split].append(good(hello + question, answer, "persona"))
    return found


def to_row(exchanges: list[Exchange]) -> dict:
    """Render exchanges to one dialogue's messages and the character spans of its behaviours."""
    messages, spans = [], []
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.question})
        text = ""
        for behaviour, part in exchange.parts:
            if behaviour is not None:
                place = {"message": len(messages), "start": len(text), "end": len(text) + len(part)}
                spans.append({"behaviour": behaviour, **place})
            text += part
        messages.append({"role": "assistant", "content": text})
    return {"messages": messages, "kind": exchanges[-1].kind, "spans": spans}


def join(exchanges: list[Exchange], share: float, rng: random.Random) -> list[list[Exchange]]:
    """Shuffle, and put some other exchange before a `share` of them (two-turn dialogues)."""
    rng.shuffle(exchanges)
    return [[rng.choice(exchanges), last] if rng.random() < share else [last] for last in exchanges]


def main() -> None:
    rng = random.Random(SEED)
    sources = [benign(rng), asked_for(rng), persona(rng)]
    for split, share in {"tune": 0.06, "analysis": 0.3, "heldout": 0.0}.items():
        exchanges = [exchange for source in sources for exchange in source[split]]
        dialogues = [to_row(dialogue) for dialogue in join(exchanges, share, rng)]
        rows = [json.dumps(dialogue, separators=(",", ":")) for dialogue in dialogues]
        rows = [row for row in rows if not DROPPED.search(row)]
        (DATA / f"{split}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
