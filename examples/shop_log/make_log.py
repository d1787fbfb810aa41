"""Writes an invented log of a shop, with the dirt that such logs have: python make_log.py shop.csv [--rows 100000].

Semicolons and decimal commas, product names with commas, quotes and letters of several scripts, times in several zones,
views, carts and purchases, two bots, and rows that are broken in different ways.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

HEADER = ("order_row", "customer_id", "sku", "event_type", "event_time", "price")
PRODUCTS = ("Schuhe, rot", "Tasse – groß", "Käse, alt", "Hemd", "日本茶, 100g", 'Ring "Ø"')
SKUS = 600
BROKEN = (
    ("kaputt",),
    ("NA", "Hemd 3", "view", "2025-01-01T00:00:00+01:00", "1,00"),
    ("C00001", "Hemd 3", "view", "gestern", "2,00"),
    ("C00001", "", "view", "2025-03-01T00:00:00Z", "1,00"),
    ("C00001", "Hemd 9", "view", "1970-01-01T00:00:00Z", "3,00"),
)
"""Rows of which nothing can be used, but for the last, whose time is none."""

Event = tuple[str, ...]


def sku(number: int) -> str:
    """The name of a product."""
    return f"{PRODUCTS[number % len(PRODUCTS)]} {number}"


def visits(draw: random.Random, customer: str) -> Iterator[Event]:
    """The events of a customer, who mostly goes on to a product near the last one."""
    zone = timezone(timedelta(hours=draw.choice([-5, 0, 1])))
    moment = datetime(2025, 1, 1, tzinfo=zone) + timedelta(minutes=draw.randrange(400_000))
    place = draw.randrange(SKUS)
    for _ in range(min(80, 3 + int(draw.expovariate(1 / 20)))):
        place = (place + draw.choice([1, 1, 2, 3, -1, 17])) % SKUS
        moment += timedelta(minutes=draw.randrange(1, 3_000))
        steps = 1 + (draw.random() < 0.4) + (draw.random() < 0.15)
        for kind in ("view", "cart", "purchase")[:steps]:
            moment += timedelta(seconds=draw.randrange(5, 90))
            yield customer, sku(place), kind, moment.isoformat(), f"{place / 7 + 1:.2f}".replace(".", ",")


def bot(name: str, events: int) -> Iterator[Event]:
    """A visitor who views one product after another, every three seconds."""
    for step in range(events):
        moment = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(seconds=3 * step)
        yield name, sku(step % SKUS), "view", moment.isoformat(), "1,00"


def events(rows: int, seed: int = 3) -> list[Event]:
    """So many rows in random order: about a tenth by two bots, one in a hundred broken."""
    draw = random.Random(seed)
    broken = [draw.choice(BROKEN) for _ in range(rows // 100)]
    found = [event for name in ("BOT0", "BOT1") for event in bot(name, rows // 20)]
    customer = 0
    while len(found) < rows - len(broken):
        found.extend(visits(draw, f"C{customer:05}"))
        customer += 1
    found = found[: rows - len(broken)] + broken
    draw.shuffle(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=100_000, metavar="N")
    options = parser.parse_args()
    with options.path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(HEADER)
        writer.writerows((number, *event) for number, event in enumerate(events(options.rows)))


if __name__ == "__main__":
    main()
