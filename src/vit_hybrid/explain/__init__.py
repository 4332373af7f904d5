"""What a model looked at in a picture: attention, rollout, and what raises a label, as maps and as pictures of them.

```python
import vit_hybrid

[explanation] = vit_hybrid.explain("examples/cat.jpg", method="grad-cam")    # with the model in the package
explainer = vit_hybrid.explain.Explainer.from_pretrained("my-model")         # opened once, for many pictures
```
"""

from typing import TYPE_CHECKING

from ..first_use import called_as, on_first_use

if TYPE_CHECKING:
    from .explainer import Explainer as Explainer
    from .explainer import explain as explain
    from .explanation import Explanation as Explanation
    from .explanation import heat_png as heat_png
    from .explanation import overlay_png as overlay_png
    from .methods import METHODS as METHODS

PLACES = {
    **dict.fromkeys(("Explainer", "explain"), "explainer"),
    **dict.fromkeys(("Explanation", "heat_png", "overlay_png"), "explanation"),
    "METHODS": "methods",
}

__getattr__ = on_first_use(__name__, PLACES)
called_as(__name__, "explain")

__all__ = [*PLACES]
