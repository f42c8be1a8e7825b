"""Papers that several modules of the family cite."""

from optkit.method import Paper

MEDIAN = Paper("SGD with Clipping is Secretly Estimating the Median Gradient", "Schaipp et al.", 2024, "2402.12828")
CVAR = Paper("A Model-Based Method for Minimizing CVaR and Beyond", "Meng, Gower", 2023, "2305.17498")
