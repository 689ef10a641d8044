"""Connected components of a mask: what this project calls a lesion."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_components(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """26-connected components of a 3-D mask: labels 1..n (int32, 0 outside) and n."""
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool), output=np.int32)
    return labels, int(count)
