"""Features brought down to what can be looked at: principal components, then t-SNE."""

import numpy as np
from jaxtyping import Float, Shaped

# Van der Maaten and Hinton (2008) bring data down to 30 components before t-SNE; 50 is customary.
_COMPONENTS = 50


def principal(features: Shaped[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
    """At most 50 principal components; the first has a standard deviation of 1.

    Features that do not differ at all give zeros.
    """
    from sklearn.decomposition import PCA  # a second to import, which no other experiment needs

    features = np.asarray(features, np.float64)
    size = min(_COMPONENTS, *features.shape)
    components = PCA(size, random_state=0).fit_transform(features)
    spread = components[:, 0].std()
    rounding = 1e-9 * np.abs(features).max(initial=0)
    return components / spread if spread > rounding else np.zeros_like(components)


def tsne(components: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n 2"] | None:
    """The images on a plane, like ones beside each other (van der Maaten and Hinton 2008).

    Equal input gives equal output. None for fewer than 10 images and for images that do not differ.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(components)
    if count < 10 or components.shape[1] < 2 or not components.any():
        return None
    perplexity = min(30, (count - 1) / 3)
    # One thread: sums then have one order on every machine, and on cores that others use too its
    # threads wait for each other (minutes for seconds).
    with threadpool_limits(1):
        drawn = TSNE(perplexity=perplexity, init="pca", max_iter=750, random_state=0)
        return drawn.fit_transform(components)
