#!/usr/bin/env python3
"""Rows in the form of make.py from others' templates and identities, for testing alone.

    python3 bench/token_heads/presidio.py --templates templates.txt --identities FakeNameGenerator.com_3000.csv \
      --out rows/presidio.jsonl

Templates are lines as presidio-evaluator's (MIT), identities a CSV of fakenamegenerator.com (CC BY-SA; nothing of them
is kept but in the rows). Names and parts of them are persons; {{address}} is an address, and so are street, number,
town, code and country that stand together, if a street and a number are among them. A town, state or country by itself is none; a
street without a number may be taken for one or not ("class": null).
"""

import argparse
import csv
import json
import random
import re
from pathlib import Path

PARTS = {"building_number", "street_name", "secondary_address", "city", "state_abbr", "state", "zipcode", "postcode", "country"}
NAMES = re.compile(r"(person|name|first_name|last_name|name_\w+|first_name_\w+|last_name_\w+)$")
JOINT = re.compile(r"[\s,>?]*$")


def values(name: str, identity: dict, rng: random.Random) -> str:
    """What a placeholder becomes."""
    street = re.match(r"(\d+)\s+(.*)|(.*?)\s+(\d+.*)", identity["StreetAddress"])
    number, road = (street.group(1) or street.group(4), street.group(2) or street.group(3)) if street else ("12", identity["StreetAddress"])
    if NAMES.match(name):
        first, last = identity["GivenName"], identity["Surname"]
        return first if "first" in name else last if "last" in name else f"{first} {last}"
    return {
        "address": f"{identity['StreetAddress']}, {identity['City']}, {identity['StateFull'] or identity['State']} {identity['ZipCode']}".replace(",  ", ", "),
        "building_number": number, "street_name": road, "secondary_address": f"Apt. {rng.randint(1, 90)}",
        "city": identity["City"], "state_abbr": identity["State"], "state": identity["StateFull"],
        "zipcode": identity["ZipCode"], "postcode": identity["ZipCode"], "country": identity["CountryFull"],
        "organization": identity["Company"], "email": identity["EmailAddress"], "phone_number": identity["TelephoneNumber"],
        "job": identity["Occupation"], "date_of_birth": identity["Birthday"], "credit_card_number": "4111 1111 1111 1111",
        "url": "https://" + identity["Domain"], "age": str(rng.randint(18, 90)), "year": str(rng.randint(1950, 2020)),
        "prefix": rng.choice(["Mr.", "Mrs."]), "prefix_male": "Mr.", "prefix_female": rng.choice(["Mrs.", "Ms."]),
        "day_of_week": rng.choice(["Monday", "Friday"]), "nationality": "Italian", "nation_woman": "Italian",
        "nation_plural": "Italians", "date_time": "12/04/2019", "iban": "DE89370400440532013000", "ip_address": "10.1.2.3",
        "ssn": "536-90-4399", "us_driver_license": "D1234567",
    }.get(name, "X")


def filled(template: str, identities: list, rng: random.Random) -> dict:
    """The text and its spans, in bytes of UTF-8."""
    out, spans, at = "", [], -1
    identity = rng.choice(identities)
    for part in re.split(r"(\{\{\w+\}\})", template.replace("\\n", "\n").replace("\\,", ",")):
        name = part[2:-2] if part.startswith("{{") else None
        if name is None:
            street = re.match(r" [Ss]t(reet)?\b", part)
            if street and spans and spans[-1]["end"] == len(out.encode()) and "street_name" in spans[-1]["names"]:
                spans[-1]["end"] += len(street[0])
            out += part
            continue
        if NAMES.match(name):
            identity = rng.choice(identities)
        text = values(name, identity, rng)
        start = len(out.encode())
        out += text
        end = len(out.encode())
        kind = "person" if NAMES.match(name) else "address" if name == "address" else "part" if name in PARTS else None
        if kind is None:
            continue
        last = spans[-1] if spans else None
        between = out.encode()[last["end"]:start].decode() if last else "x"
        if last and last["class"] == kind and (JOINT.match(between) if kind == "part" else between == " " and kind == "person"):
            last["end"] = end
            last["names"].add(name)
        else:
            spans.append({"start": start, "end": end, "class": kind, "names": {name}})
    kept = []
    for span in spans:
        names = span.pop("names")
        if span["class"] == "part":
            if "street_name" not in names:
                continue
            span["class"] = "address" if "building_number" in names else None
        kept.append(span)
    return {"text": out, "spans": kept, "template": template}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", required=True, type=Path)
    parser.add_argument("--identities", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--fillings", type=int, default=3, help="of each template")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    lines = args.templates.read_text(encoding="utf-8", errors="replace").splitlines()
    with open(args.identities, encoding="utf-8-sig", errors="replace") as file:
        identities = list(csv.DictReader(file))
    rows = [filled(line, identities, rng) for line in lines if line.strip() for _ in range(args.fillings)]
    rng.shuffle(rows)
    args.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
