#!/usr/bin/env python3
"""Precision and recall of the pattern guard on sentence templates filled with generated values.

    python3 bench/guards.py --tandem target/release/tandem --templates templates.txt --rows 4000

A template is a line with placeholders such as {{credit_card_number}}; presidio-evaluator's
presidio_evaluator/data_generator/raw_data/templates.txt is such a file. Values come from the package Faker, by a
fixed seed. For each structured entity a guard of its own is asked; a row counts as positive for an entity if its
template has the placeholder. Printed: a line of JSON per entity, with the rows that went wrong under --show.
"""

import argparse
import json
import random
import re
import subprocess
import tempfile
from pathlib import Path

from faker import Faker

# Placeholder -> entity. All other placeholders are filled too, as distractors.
STRUCTURED = {
    "credit_card_number": "credit_card",
    "email": "email",
    "iban": "iban",
    "ip_address": "ip_address",
    "phone_number": "phone",
    "ssn": "us_ssn",
    "url": "url",
    "us_driver_license": "us_driver_license",
}
LOCALES = ["en_US", "en_GB", "de_DE", "fr_FR", "it_IT", "es_ES"]


def fillers(seed: int) -> dict:
    """A function for each placeholder."""
    Faker.seed(seed)
    rng = random.Random(seed)
    by_locale = {name: Faker(name) for name in LOCALES}
    fake = by_locale["en_US"]
    anywhere = lambda: by_locale[rng.choice(LOCALES)]

    def card() -> str:
        number = fake.credit_card_number()
        separator = rng.choice(["", "", " ", "-"])
        return separator.join(number[i : i + 4] for i in range(0, len(number), 4))

    def iban() -> str:
        number = anywhere().iban()
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if rng.random() < 0.3 else number

    return {
        "credit_card_number": card,
        "email": lambda: anywhere().email(),
        "iban": iban,
        "ip_address": lambda: fake.ipv4() if rng.random() < 0.7 else fake.ipv6(),
        "phone_number": lambda: anywhere().phone_number(),
        "ssn": fake.ssn,
        "url": fake.url,
        "us_driver_license": lambda: fake.bothify(rng.choice(["?#######", "########", "?##-##-####"])).upper(),
        "address": lambda: anywhere().address().replace("\n", ", "),
        "street_name": lambda: anywhere().street_name(),
        "secondary_address": fake.secondary_address,
        "building_number": fake.building_number,
        "postcode": lambda: anywhere().postcode(),
        "zipcode": fake.zipcode,
        "city": lambda: anywhere().city(),
        "country": fake.country,
        "state_abbr": fake.state_abbr,
        "organization": lambda: anywhere().company(),
        "job": fake.job,
        "age": lambda: str(rng.randint(1, 99)),
        "year": fake.year,
        "date_time": lambda: fake.date_time().strftime(rng.choice(["%Y-%m-%d %H:%M:%S", "%d/%m/%Y", "%B %d, %Y"])),
        "date_of_birth": lambda: fake.date_of_birth().strftime(rng.choice(["%Y-%m-%d", "%m/%d/%Y", "%d.%m.%Y"])),
        "day_of_week": fake.day_of_week,
        "nationality": fake.country,
        "nation_woman": fake.country,
        "nation_plural": fake.country,
        "prefix": fake.prefix,
        "prefix_male": fake.prefix_male,
        "prefix_female": fake.prefix_female,
        "first_name": lambda: anywhere().first_name(),
        "last_name": lambda: anywhere().last_name(),
    }


def fill(template: str, values: dict) -> str:
    def value(match: re.Match) -> str:
        name = match.group(1)
        if name in values:
            return values[name]()
        base = "first_name" if "first_name" in name else "last_name"
        both = name in ("person", "name", "name_male", "name_female")
        return f"{values['first_name']()} {values['last_name']()}" if both else values[base]()

    return re.sub(r"\{\{(\w+)\}\}", value, template.replace("\\n", "\n").replace("\\,", ","))


def rows(templates: list, count: int, seed: int) -> list:
    """Templates with structured placeholders and ones without, in turn."""
    rng = random.Random(seed)
    values = fillers(seed)
    structured = [t for t in templates if set(re.findall(r"\{\{(\w+)\}\}", t)) & set(STRUCTURED)]
    out = []
    for number in range(count):
        template = rng.choice(structured if number % 3 else templates)
        names = set(re.findall(r"\{\{(\w+)\}\}", template))
        entities = sorted({STRUCTURED[name] for name in names if name in STRUCTURED})
        out.append({"id": number, "text": fill(template, values), "entities": entities})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", required=True, help="the binary")
    parser.add_argument("--templates", required=True, type=Path, help="a file of templates, one a line")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="rows that went wrong to show per entity")
    args = parser.parse_args()
    text = args.templates.read_text(encoding="utf-8", errors="replace")
    data = rows([line for line in text.splitlines() if line.strip()], args.rows, args.seed)
    entities = sorted(set(STRUCTURED.values()))
    guards = "".join(
        f'[[guard]]\nname = "{e}"\nkind = "pattern"\naction = "flag"\nentities = ["{e}"]\n\n' for e in entities
    )
    with tempfile.TemporaryDirectory() as folder:
        config, file = Path(folder, "guards.toml"), Path(folder, "rows.jsonl")
        config.write_text(guards)
        file.write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in data))
        done = subprocess.run(
            [args.tandem, "guard", "test", str(file), "--config", str(config)],
            check=True, capture_output=True, text=True,
        )
    scores = {row["id"]: row["scores"] for row in map(json.loads, done.stdout.splitlines())}
    total = [0, 0, 0]
    for entity in entities:
        counts, wrong = [0, 0, 0], []
        for row in data:
            there, found = entity in row["entities"], scores[row["id"]][entity] > 0
            counts[0] += there and found
            counts[1] += found and not there
            counts[2] += there and not found
            if there != found:
                wrong.append(row["text"])
        total = [a + b for a, b in zip(total, counts)]
        print(json.dumps(figures(entity, counts)))
        for line in wrong[: args.show]:
            print("   ", line)
    print(json.dumps(figures("all", total)))


def figures(entity: str, counts: list) -> dict:
    hits, alarms, missed = counts
    return {
        "entity": entity,
        "rows": hits + missed,
        "precision": round(hits / max(1, hits + alarms), 4),
        "recall": round(hits / max(1, hits + missed), 4),
    }


if __name__ == "__main__":
    main()
