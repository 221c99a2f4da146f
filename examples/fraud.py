"""Card transactions that are generated, and the teacher and the student that screen them for fraud.

No bank publishes its transactions, so none of these is real. They are drawn from a dozen kinds of customers and
thieves, each with habits: a traveller spends far from home, a night worker at unusual hours, a stolen card is used many
times in a day; a customer with a new phone looks much like a thief who has taken over an account. About one transaction
in a hundred is fraud, and the habits overlap, so that no model can be perfect. These data show how the methods work,
not which results they would have at a bank.

    from fraud import generate

    x, y = generate(10_000, seed=0)                    # (10000, 20) float32 and (10000, 3) int32
    x, y = generate(10_000, seed=1, habits=1.0)        # later: customers buy more online, prices have risen
    x, y = generate(10_000, seed=2, attacks=1.0)       # later: thieves have learned to look like customers

A column of x is one of `FEATURES`, in its own unit and never negative; a column of y is one of `LABELS`.
`any_fraud(y)` makes one label of them.
"""

import numpy as np

MERCHANTS = ("groceries", "fuel", "restaurant", "electronics", "travel", "digital")
FEATURES = (
    "amount",  # in euros
    "amount_ratio",  # to what this card spends at a time
    "hour",  # of the day, 0 to 24
    "hours_off",  # from this card's usual hour, 0 to 12
    "distance",  # from home in km
    "minutes_since_last",
    "count_24h",  # transactions of this card in the last day
    "spent_24h",  # in the last day, as a ratio to an average day
    "card_age",  # in days
    "password_age",  # in days
    "disputes",  # that this customer has won or lost before
    "online",  # 1 or 0, as the following
    "new_device",
    "foreign",
    *MERCHANTS,
)
LABELS = ("stolen_card", "account_takeover", "chargeback")

# One row for each kind of transaction. Share in per cent; logarithm of the amount as a ratio to the card's average,
# and its spread; hours from the usual hour; logarithm of the kilometres from home; transactions in the last day;
# chances of: online, a new device, a password changed in the last days, a foreign merchant; disputes before.
KINDS = {
    "ordinary": (66.0, -0.2, 0.6, 2.5, 1.2, 1.5, 0.20, 0.02, 0.02, 0.02, 0.05),
    "online shopper": (15.0, 0.1, 0.8, 4.0, 1.0, 2.5, 0.95, 0.06, 0.04, 0.20, 0.15),
    "traveller": (7.0, 0.5, 0.8, 4.5, 6.5, 4.0, 0.15, 0.04, 0.02, 0.70, 0.05),
    "night worker": (5.0, -0.1, 0.6, 7.5, 1.5, 1.5, 0.20, 0.02, 0.02, 0.02, 0.05),
    "large purchase": (3.0, 2.0, 0.6, 3.0, 2.0, 1.5, 0.40, 0.04, 0.04, 0.05, 0.05),
    "new phone": (2.6, 0.3, 0.8, 3.5, 1.2, 2.0, 0.80, 0.85, 0.60, 0.10, 0.05),
    "stolen, spree": (0.35, 0.3, 0.7, 5.0, 3.0, 6.5, 0.15, 0.05, 0.02, 0.20, 0.05),
    "stolen, one large": (0.25, 1.8, 0.6, 6.5, 4.0, 2.0, 0.30, 0.10, 0.03, 0.30, 0.05),
    "takeover": (0.40, 1.3, 0.7, 5.5, 2.0, 2.5, 0.95, 0.80, 0.65, 0.30, 0.05),
    "friendly": (0.40, 0.5, 0.6, 4.0, 1.0, 2.5, 0.95, 0.05, 0.03, 0.15, 1.20),
}
WHERE = {  # weights of MERCHANTS
    "ordinary": (6, 3, 4, 1, 1, 2),
    "online shopper": (2, 0, 1, 4, 2, 6),
    "traveller": (1, 3, 5, 1, 6, 1),
    "night worker": (4, 4, 4, 1, 1, 2),
    "large purchase": (0, 0, 1, 6, 5, 1),
    "new phone": (2, 1, 1, 4, 2, 5),
    "stolen, spree": (3, 4, 2, 5, 1, 2),
    "stolen, one large": (0, 1, 1, 8, 4, 1),
    "takeover": (0, 0, 1, 7, 3, 6),
    "friendly": (0, 0, 1, 3, 2, 9),
}
FRAUD = {"stolen, spree": 0, "stolen, one large": 0, "takeover": 1}  # the label of each
#: What is added to a row of KINDS after the share: how customers change, and how thieves do.
HABITS = (0.20, 0.05, 0.5, 0.3, 0.7, 0.20, 0.06, 0.03, 0.08, 0.02)
ATTACKS = (-0.50, -0.10, -1.5, -0.7, -1.0, 0.15, -0.25, -0.30, -0.05, 0.0)


def generate(count: int, seed: int = 0, habits: float = 0.0, attacks: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` transactions and their labels; `habits` and `attacks`, 0 to 1, are the sizes of two changes."""
    random = np.random.default_rng(seed)
    table = np.array(list(KINDS.values()))
    thieves = np.isin(list(KINDS), list(FRAUD))
    table[:, 1:] += np.where(thieves[:, None], attacks * np.array(ATTACKS), habits * np.array(HABITS))
    kind = random.choice(len(table), count, p=table[:, 0] / table[:, 0].sum())
    ratio_log, spread, off, far, busy, online, device, password, foreign, disputes = table[kind, 1:].T
    chance = lambda probability: random.random(count) < probability  # noqa: E731

    average = np.exp(random.normal(3.5, 0.6, count))  # what this card spends at a time
    ratio = np.exp(random.normal(ratio_log, spread))
    hours_off = np.clip(np.abs(random.normal(0, off)), 0, 12)
    hour = (random.normal(15, 2.5, count) + hours_off * random.choice((-1, 1), count)) % 24
    count_24h = random.poisson(np.maximum(busy, 0.2))
    fresh = chance(password)
    columns = [average * ratio, ratio, hour, hours_off]
    columns += [np.exp(random.normal(far, 1.2))]
    columns += [
        random.exponential(1440 / (1 + count_24h)),
        count_24h,
        count_24h * np.exp(random.normal(-0.5, 0.5, count)),
    ]
    columns += [
        random.gamma(2, 500, count),
        np.where(fresh, random.exponential(3, count), random.exponential(300, count)),
    ]
    columns += [random.poisson(disputes), chance(online), chance(device), chance(foreign)]
    weights = np.array(list(WHERE.values()), float)
    steps = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    merchant = (random.random((count, 1)) > steps[kind]).sum(axis=1)
    columns += list(np.eye(len(MERCHANTS))[np.minimum(merchant, len(MERCHANTS) - 1)].T)
    return np.stack(columns, axis=1).astype("float32"), _labels(kind, random)


def _labels(kind: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return which label is true; customers notice three frauds in four, and dispute a few good purchases too."""
    names = np.array(list(KINDS))[kind]
    y = np.zeros((len(kind), len(LABELS)), "int32")
    for name, label in FRAUD.items():
        y[names == name, label] = 1
    noticed = random.random(len(kind)) < np.where(y.any(axis=1), 0.75, np.where(names == "friendly", 0.9, 0.0005))
    y[:, 2] = noticed
    return y


def any_fraud(y: np.ndarray) -> np.ndarray:
    """Return one label for each transaction, (n, 1): a stolen card or an account that was taken over."""
    return y[:, :2].any(axis=1, keepdims=True).astype("int32")
