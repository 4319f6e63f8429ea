"""What a section of the benchmarks is."""


class Section:
    """`cases` takes the settings and answers the cases; `targets` are (words, case, others, metric, at most), where
    the best of the others is what the case is set against. Without others the figure itself is meant. A target whose
    case was left out is left out."""

    def __init__(self, name, title, about, cases, targets=(), most_rounds=None, plot="bars", x_label=None):
        self.name, self.title, self.about, self.cases = name, title, about, cases
        self.targets, self.most_rounds, self.plot, self.x_label = targets, most_rounds, plot, x_label
        # Why something was left out, for the page.
        self.notes = []


def timed(options, *more):
    return ["--time", options.time, "--warmup", "200ms", *more]
