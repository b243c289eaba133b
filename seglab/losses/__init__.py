"""Loss functions for segmentation: frozen dataclasses in plain torch, for any training script.

    loss = Dice(task="multiclass")
    loss(logits, target).mean().backward()

Importing this package imports only torch. `docs/losses.md` lists the losses with formulas and papers.
"""

from seglab.losses.boundary import Boundary, BoundaryDoU, DistancePenalizedCE, Hausdorff
from seglab.losses.calibration import L1ACE, MarginCE, NeighborCE, RegionSize
from seglab.losses.cldice import CLDice, SkeletonRecall
from seglab.losses.components import InverseSizeCE, PerComponent
from seglab.losses.composite import Batchwise, Sum, Term
from seglab.losses.compound import BCEDice, Combo, ExpLog, UnifiedFocal
from seglab.losses.cross_entropy import BCE, BalancedCE, ClassWeightedCE, LabelSmoothing, WeightedBCE
from seglab.losses.cross_entropy import AsymmetricFocal, Focal, LogitAdjusted, Poly1, TopK, WeightMap
from seglab.losses.external import External
from seglab.losses.lovasz import LovaszHinge, LovaszSigmoid, LovaszSoftmax
from seglab.losses.overlap import MCC, AsymmetricFocalTversky, Dice, FocalTversky, GeneralizedDice, IoU, Tversky
from seglab.losses.overlap import JML, DicePlusPlus, GeneralizedWassersteinDice, LogCoshDice, NoiseRobustDice
from seglab.losses.overlap import SensitivitySpecificity, SquaredDice
from seglab.losses.robust import BiTempered, GeneralizedCE, SymmetricCE, TLoss
from seglab.losses.schedule import Switch

__all__ = ["BCE", "JML", "L1ACE", "MCC", "AsymmetricFocal", "AsymmetricFocalTversky", "BCEDice", "BalancedCE"]
__all__ += ["Batchwise", "BiTempered", "Boundary", "BoundaryDoU", "CLDice", "ClassWeightedCE", "Combo", "Dice"]
__all__ += ["DicePlusPlus", "DistancePenalizedCE", "ExpLog", "External", "Focal", "FocalTversky", "GeneralizedCE"]
__all__ += ["GeneralizedDice", "GeneralizedWassersteinDice", "Hausdorff", "InverseSizeCE", "IoU", "LabelSmoothing"]
__all__ += ["LogCoshDice", "LogitAdjusted", "LovaszHinge", "LovaszSigmoid", "LovaszSoftmax", "MarginCE", "NeighborCE"]
__all__ += ["NoiseRobustDice", "PerComponent", "Poly1", "RegionSize", "SensitivitySpecificity", "SkeletonRecall"]
__all__ += ["SquaredDice", "Sum", "Switch", "SymmetricCE", "TLoss", "Term", "TopK", "Tversky", "UnifiedFocal"]
__all__ += ["WeightMap", "WeightedBCE"]
