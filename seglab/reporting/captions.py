"""What the report says about its own figures, tables and method (HTML)."""

CAPTIONS = {
    "seeds": """Every run of the sweep: one dot is one seed, the bar the mean over seeds. Dots of different losses that
overlap are a warning: another seed could have turned the order round.""",
    "learning": """Learning curves on the validation images: mean over seeds, with a band from the lowest to the highest
seed. Foreground confidence is the mean probability given to true foreground, background confidence that given to true
background.""",
    "forest": """Paired differences, first loss minus second. The thick line is the interval for the pair alone, the
thin one for all pairs at once (Bonferroni; the verdict uses Holm's slightly sharper step-down). Lines that leave the
figure are cut at its edge.""",
    "ranks": """Critical-difference diagram: mean rank over the test images, 1 is best. A bar joins losses among which
this sweep found none better than another.""",
    "precision_recall": """Precision against recall over all test pixels: the curve runs through all thresholds (all
seeds together), a dot is one run at threshold 0.5.""",
    "reliability": """Reliability diagram: of the pixels given a probability, how many are foreground. Below the
diagonal the network is too sure of foreground, above it not sure enough.""",
    "wins": """Win matrix by object size: in how many of 100 images of each quarter the loss of the row does better than
the loss of the column. Each image counts by its mean over seeds; a tie is half a win.""",
}

PAIRS_NOTE = """p over images is the signed-rank test on seed-averaged images (Holm-corrected). It asks whether
<em>these trained networks</em> differ on new images, not whether training again would show it."""

PLACES_NOTE = """How often each loss takes each place when seeds and groups of test images are drawn again (hierarchical
bootstrap). With few seeds this looks steadier than it is; the verdict above allows for that."""

BLOCK_NOTE = """Mean over seeds ± standard deviation over seeds. The best mean of each column is bold, which is no
verdict. A click on a head sorts."""

METHOD = """The question: {metric} per image, averaged over {images}. Runs with the same seed are twins: same initial
weights, order and augmentation. Each pair of losses is compared on the seeds and images that both have. What a seed
does to one loss and not to the other is shared by all images of that run, so images do not replace seeds: the seeds'
part of the uncertainty is Student's t over the per-seed differences, with variances moderated across the pairs of the
sweep (Smyth 2004) as far as they are alike; the images' part comes from {draws} bootstrap draws of whole groups
(patients, scenes). “Better” needs Holm's corrected p of at most {alpha} over all {pairs} pairs; “equivalent” needs the
{confidence} interval of the pair inside ±{delta}. In simulated sweeps without any difference “better” is said in at
most 6 % of them, also with two or three seeds (8 % if one loss is five times as erratic as the others)."""
