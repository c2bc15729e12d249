"""What measures are called on the page, and what they mean in plain words."""

from collections.abc import Sequence

from dai_plugin.report.parts import Part, Section

MEANINGS: dict[str, str] = {
    "score": "1: the layer does not see the transformation; 0: it moves as far as to "
    "another image.",
    "class_score": "1: all images of a class are the same to the layer; 0: they are as "
    "far apart as any.",
    "cosine": "Cosine of the angle between an image and its version; 1: the same "
    "direction.",
    "equivariance": "1: the map moves as the image does.",
    "normalized_variance": "0: invariant; 1: a unit varies as much over versions as "
    "over images. Less is better.",
    "firing": "How many times more often a unit fires on versions of images that it "
    "fires on, than on any image.",
    "first_component": "Share of the variance along one line; 1: the layer has "
    "collapsed onto it.",
    "effective_rank": "How many directions the layer uses; near 1: it has collapsed.",
    "accuracy": "Share of images that are predicted right.",
    "accuracy_transformed": "The same of their versions.",
    "accuracy_worst": "Share of images all of whose versions are predicted right.",
    "accuracy_of_mean": "The same of the mean of the versions' probabilities.",
    "consistency": "Share of versions predicted as their image is, right or wrong.",
    "consistency_all": "Share of images all of whose versions are predicted alike.",
    "effective_invariance": "As consistency, but sure predictions count for more.",
    "calibration_error": "How far confidence is from accuracy; 0.05: five points in a "
    "hundred too sure, or not sure enough. Less is better.",
    "calibration_error_transformed": "The same of the versions. Less is better.",
    "retrieval": "Share of versions that are nearer to their own image than to any "
    "other one.",
    "confidence": "Mean probability of the predicted class.",
    "confidences": "The same of the versions.",
}

SECTIONS: dict[str, tuple[str, str]] = {
    "run": (
        "What was run",
        "Numbers can be compared only if the images and their versions were the same; "
        "this is what they were, and how to measure them again.",
    ),
    "layers": (
        "Invariance of the layers",
        "A layer is invariant if an image looks the same to it before and after a "
        "transformation. A score of 1 is that; at 0 a version is as far from its image "
        "as another image is. The pixels (input) come first, for comparison: a layer "
        "above them has learned some invariance, one beneath them has lost it.",
    ),
    "output": (
        "Predictions",
        "Does the network give the same answer when the image changes, and the right "
        "one? Consistency far under 1 means that it does not, whatever its accuracy.",
    ),
    "strength": (
        "One transformation, weaker and stronger",
        "Each transformation alone. Where a curve is high and flat the network does "
        "not mind; where it falls, it does. At the value that changes nothing it "
        "stands at its best.",
    ),
    "corruptions": (
        "Corruptions by severity",
        "Noise, blur, weather and compression, from slight (1) to severe (5), none of "
        "which the network need have seen in training.",
    ),
    "attacks": (
        "Attacks",
        "Changes that are searched for to fool this network, as large as is allowed. "
        "What is left at the right end was not fooled by these attacks; stronger ones "
        "may exist.",
    ),
    "pictures": (
        "Images that break, images that hold",
        "On the left the image, on the right the version that changed the network's "
        "mind, or came nearest to it. What do those that break have in common?",
    ),
    "similarity": (
        "Similarity of images and of layers",
        "A dissimilarity matrix shows which images a layer takes for alike: dark is "
        "near, light is far. Layers are compared by their matrices (rank correlation) "
        "or their features (CKA); 1 is the same up to a rotation. "
        "Of several networks, the layers of the first (across) are compared with those "
        "of each other one (down), too; where one has several seeds, its first is "
        "taken.",
    ),
    "dynamics": (
        "Training",
        "Each layer's invariance loss over the epochs: 0 is invariant, 1 as far as "
        "random images.",
    ),
}


def title(measure: str) -> str:
    """A measure's name in words."""
    return measure.replace("_", " ")


def section(
    anchor: str, parts: Sequence[Part], measures: Sequence[str] = ()
) -> Section:
    """A section with its words, and those of the measures in it."""
    terms = {title(m): MEANINGS[m] for m in measures if m in MEANINGS}
    return Section(anchor, *SECTIONS[anchor], parts, terms)
