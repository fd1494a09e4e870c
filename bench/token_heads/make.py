#!/usr/bin/env python3
"""Texts with names and addresses, and where these stand, for `tandem train-token-head`.

    pip install faker
    python3 bench/token_heads/make.py --out rows

Templates of our own are filled with values of the package Faker (MIT), in many countries' styles. Which of templates.txt
are for the fit, for choices and for the test is drawn once, by SPLIT_SEED; those of templates_fit.txt, which were written
later, are for the fit. The values of each part come from seeds of their own. Written: fit.jsonl, choice.jsonl, test.jsonl, lines {"text", "spans": [{"start", "end", "class"}],
"template"}, places in bytes of UTF-8. Harmless texts without any (bench/guard_heads/benign.txt) are added to fit and choice.
"""

import argparse
import json
import os
import random
import re
import sys
from datetime import date
from pathlib import Path

from faker import Faker

HERE = Path(__file__).resolve().parent
BENIGN = HERE.parent / "guard_heads" / "benign.txt"
SPLIT_SEED = 20
#: Shares of the templates.
SHARES = {"fit": 0.6, "choice": 0.2, "test": 0.2}
#: Fillings of each template, by part.
FILLINGS = {"fit": 6, "choice": 6, "test": 8}
#: What stands between a street and its town.
PLACE_GAPS = (b", ", b"\n", b",\n")
#: Dates are drawn between these, so that the rows are the same on any day.
DAYS = (date(1950, 1, 1), date(2025, 1, 1))
LOCALES = [
    "en_US", "en_US", "en_US", "en_GB", "en_GB", "en_CA", "en_AU", "en_IN", "en_IE", "de_DE", "fr_FR", "es_ES", "it_IT",
    "nl_NL", "pt_PT", "pt_BR", "sv_SE", "pl_PL", "es_MX", "tr_TR", "fi_FI", "da_DK",
]
NAME_KINDS = [("{f} {l}", 60), ("{f}", 8), ("{f} {i}. {l}", 6), ("{f} {m} {l}", 6), ("{i}. {l}", 5), ("{l}, {f}", 4),
              ("{f} {l}-{k}", 3), ("{F} {L}", 3), ("{f} {L}", 2), ("{lf} {ll}", 3)]


class Values:
    """Fills placeholders; every value that is sought says its class."""

    def __init__(self, seed: int):
        Faker.seed(seed)
        self.rng = random.Random(seed)
        self.fakes = {name: Faker(name) for name in sorted(set(LOCALES))}
        self.home = self.fakes["en_US"]

    def fake(self) -> Faker:
        return self.fakes[self.rng.choice(LOCALES)]

    def first(self) -> str:
        return self.fake().first_name()

    def last(self) -> str:
        return self.fake().last_name()

    def person(self) -> str:
        fake = self.fake()
        kind = self.rng.choices([k for k, _ in NAME_KINDS], [w for _, w in NAME_KINDS])[0]
        first, last = fake.first_name(), fake.last_name()
        return kind.format(
            f=first, l=last, i=fake.first_name()[0], m=fake.first_name(), k=fake.last_name(), F=first.upper(),
            L=last.upper(), lf=first.lower(), ll=last.lower(),
        )

    def lines(self) -> list:
        """An address in its country's manner."""
        fake = self.fake()
        lines = [line.strip() for line in fake.address().splitlines() if line.strip()]
        if self.rng.random() < 0.25:
            lines.append(self.fake().current_country())
        return lines

    def street(self) -> str:
        """Street and number."""
        fake = self.fake()
        street = fake.street_address().replace("\n", ", ")
        return street if any(c.isdigit() for c in street) else f"{street} {fake.building_number()}"

    def address(self) -> str:
        draw = self.rng.random()
        if draw < 0.25:
            return self.street()
        if draw < 0.45:
            return f"{self.street()}, {self.fake().city()}"
        return self.rng.choice([", ", ", ", ", ", "\n", " "]).join(self.lines())

    def amount(self) -> str:
        return self.rng.choice(["$", "€", "£", "USD ", "EUR "]) + str(self.rng.randint(5, 9000))

    def number(self) -> str:
        return self.rng.choice(["", "", "A-", "INV-", "#"]) + str(self.rng.randint(10, 99999))

    def product(self) -> str:
        return self.rng.choice(PRODUCTS)

    def fill(self, name: str) -> tuple:
        """A placeholder's text and class."""
        fake, home, pick = self.fake(), self.home, self.rng.choice
        makers = {
            "person": ("person", self.person), "first": ("person", self.first), "last": ("person", self.last),
            "person_upper": ("person", lambda: self.person().upper()),
            "person_lower": ("person", lambda: self.person().lower()),
            "address": ("address", self.address), "street": ("address", self.street),
            "address_lines": ("address", lambda: "\n".join(self.lines())),
            "address_upper": ("address", lambda: self.address().upper()),
            "address_lower": ("address", lambda: self.address().lower()),
            "city": (None, fake.city), "country": (None, home.country), "company": (None, self.company),
            "job": (None, lambda: home.job().split(",")[0].split("(")[0].strip().lower()), "email": (None, fake.email),
            "phone": (None, fake.phone_number), "amount": (None, self.amount), "number": (None, self.number),
            "product": (None, self.product), "language": (None, home.language_name),
            "date": (None, lambda: home.date_between_dates(DAYS[0], DAYS[1]).strftime(pick(["%Y-%m-%d", "%d.%m.%Y", "%B %d, %Y", "%d %B %Y", "%m/%d/%y"]))),
            "month": (None, home.month_name), "weekday": (None, home.day_of_week),
            "title": (None, lambda: pick(["Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "Mr", "Mrs", "Ms"])),
        }
        kind, make = makers[name]
        return make(), kind

    def company(self) -> str:
        """Half of them without people's names in them."""
        made = f"{self.rng.choice(COMPANY_WORDS)} {self.rng.choice(COMPANY_ENDS)}"
        return made if self.rng.random() < 0.5 else self.fake().company()


PRODUCTS = """coffee|garden chairs|the Atlas 300|running shoes|Model X batteries|olive oil|Galaxy headphones|solar panels|
red wine|Windows 11|the Orion drill|office paper|PlayStation controllers|bicycle lamps|Aurora lamps|winter tyres|
the Titan backpack|green tea|Bluetooth speakers|the Nova kettle""".replace("\n", "").split("|")
COMPANY_WORDS = """Northern|Blue River|Acme|Global|Sunrise|Vertex|Pioneer|Alpine|Metro|Oak Hill|Silverline|Pacific|Quantum|
Evergreen|Iron Gate|Delta|Crystal|Harbor|Summit|Redwood|Union|Atlantic|Lakeside|Nordic|Prime""".replace("\n", "").split("|")
COMPANY_ENDS = "Bank|Systems|Insurance|Foods|Logistics|Hospital|University|Airlines|Press|Software|Energy|Hotel|Motors|GmbH|Ltd|Inc.".split("|")


def filled(template: str, values: Values) -> dict:
    """The text, and the spans of what is sought, in bytes."""
    out, spans = "", []
    for part in re.split(r"(\{\w+\})", template.replace("\\n", "\n")):
        if not re.fullmatch(r"\{\w+\}", part):
            out += part
            continue
        text, kind = values.fill(part[1:-1])
        is_place = part in ("{city}", "{country}")
        if is_place and spans and spans[-1]["class"] == "address" and out.encode()[spans[-1]["end"] :] in PLACE_GAPS:
            # A street's town is a part of the address.
            spans[-1]["end"] = len((out + text).encode())
        elif kind:
            start = len(out.encode())
            last = spans[-1] if spans else {"end": -2, "class": None}
            if last["class"] == kind and last["end"] + 1 == start and out.endswith(" "):
                # Two parts of one name.
                last["end"] = start + len(text.encode())
            else:
                spans.append({"start": start, "end": start + len(text.encode()), "class": kind})
        out += text
    return {"text": out, "spans": spans, "template": template}


def lines(file: Path) -> list:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def parts(templates: list) -> dict:
    """The templates of each part."""
    drawn = sorted(templates)
    random.Random(SPLIT_SEED).shuffle(drawn)
    out, at = {}, 0
    for name, share in SHARES.items():
        end = len(drawn) if name == "test" else at + round(share * len(drawn))
        out[name], at = drawn[at:end], end
    return out


def main() -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Faker's values depend on the order of sets.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="a folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = parts(lines(HERE / "templates.txt"))
    drawn["fit"] += lines(HERE / "templates_fit.txt")
    benign = [line for line in BENIGN.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")]
    random.Random(SPLIT_SEED).shuffle(benign)
    for seed, (name, of_part) in enumerate(drawn.items(), start=1):
        values = Values(seed)
        rows = [filled(template, values) for template in of_part for _ in range(FILLINGS[name])]
        plain = {"fit": benign[:200], "choice": benign[200:], "test": []}[name]
        rows += [{"text": text, "spans": [], "template": "benign"} for text in plain]
        # Templates without values are one row.
        rows = list({row["text"]: row for row in rows}.values())
        random.Random(seed).shuffle(rows)
        with open(args.out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
