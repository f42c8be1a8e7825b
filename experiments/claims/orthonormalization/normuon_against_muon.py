"""NorMuon against Muon."""

from experiments.claims import Claim, Finding
from experiments.claims.orthonormalization import ON_DIGITS, best_on_digits, figures, log_losses
from optkit.comparison import statistics
from optkit.orthonormalization import scale_by_muon, scale_by_normuon

WIDTH, BATCH_SIZE = 32, 64


def measure() -> Finding:
    """Trains with both."""
    normuon, muon = (
        best_on_digits(name, scale, width=WIDTH, batch_size=BATCH_SIZE)
        for name, scale in (("normuon", scale_by_normuon), ("muon", scale_by_muon))
    )
    lead = statistics.student(log_losses(normuon) - log_losses(muon))
    return Finding(f"NorMuon {figures(normuon)}, Muon {figures(muon)}", lead.high < 0)


CLAIM = Claim(
    method="normuon",
    arxiv="2510.05491",
    statement="Rows of equal size make Muon more efficient: after as many steps the loss is lower.",
    experiment=f"{ON_DIGITS}; NorMuon in the place of Dion, width {WIDTH}, batches of {BATCH_SIZE}: training loss.",
    required="NorMuon's loss is less than Muon's (paired 95% interval)",
    measure=measure,
)
