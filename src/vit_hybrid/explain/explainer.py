"""Pictures in, maps of what a model looked at out: the one way for the command, the server and others."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image
from torch import nn

from ..assets import BUILT_IN_MODEL
from ..errors import argument, shown
from ..images.levels import channels_last, infer_layout, to_picture, to_rgb
from ..images.preparing import Exactly, ImageSource
from ..images.preprocessing import Preprocessing, crop_span, resized_size
from ..model.geometry import as_pair, feature_names, token_grid
from ..outputs.problems import REGRESSION, labels_of, problem_type_of
from ..outputs.ranking import ranked
from . import attention, drawing, gradients
from .attention import Array
from .drawing import View
from .explanation import Explanation
from .hybrid import LOGITS, Classifier, Hybrid
from .methods import (
    ATTENTION,
    DEFAULT_FUSION,
    DEFAULT_METHOD,
    GRAD_CAM,
    LEGRAD,
    METHODS,
    OF_LABELS,
    ROLLOUT,
    TAKES,
    Fusion,
    Method,
)
from .passes import Pass, attention_names, through
from .twins import Twin, classifier_of, explainable, opened

if TYPE_CHECKING:
    import torch

    from ..checkpoints.opening import Source
    from ..inference.predictor import Predictor
    from ..model.modeling import ViTHybridForImageClassification
    from ..outputs.confidence import Confidence

Label: TypeAlias = "str | int"
LAYER = re.compile(r"(?:layer)?(\d+)")


class Explainer:
    """Maps of what a classifier looked at.

    Args:
        model: A classifier, which stays as it is; or a `Predictor`, of which the PyTorch model is explained that it
            runs, or that what it runs was made from.
        preprocessing: What turns a picture into the model's input: a `Preprocessing`, or an image processor of
            transformers; a predictor's own by default.
        max_pixels: The most pixels that a picture in a file may have; 250 million by default.

    Attributes:
        hybrid: What is explained: the classifier, or the same computed by PyTorch alone where a name was given.
        labels: The model's labels, in the order of its outputs; none where it has no classifier.
        twin: What is explained in an exported model's place, or None.

    Raises:
        ModelLoadError: If a predictor runs a bundle, of which there is no PyTorch model.
        ValueError: If there is no preprocessing.

    Example:

    ```python
    >>> from vit_hybrid.explain import Explainer

    >>> explainer = Explainer.from_pretrained("vit-hybrid-tiny-imagenet")
    >>> [explanation] = explainer.explain("examples/cat.jpg", method="grad-cam", labels="Egyptian cat")
    >>> explanation.map.shape
    (4, 4)
    ```
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification | Predictor,
        preprocessing: Any = None,
        max_pixels: int | None = None,
    ) -> None:
        self.twin: Twin | None = None
        self._source: Source | None = None
        self._confidence: Confidence | None = None
        self._why_no_labels: str | None = None
        if not isinstance(model, nn.Module):
            engine = model.engine
            self._confidence = model.confidence
            preprocessing = model.preprocessing if preprocessing is None else preprocessing
            model = model.model
            if engine.name != "torch":
                self.twin = Twin(type(model).__name__, engine.precision, engine.name)
        if preprocessing is None:
            raise ValueError("There is no preprocessing: give the model's image processor.")
        self._take(Classifier(model), preprocessing, max_pixels)

    def _take(self, hybrid: Hybrid, preprocessing: Any, max_pixels: int | None) -> None:
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing.from_dict(preprocessing.to_dict())
        self.hybrid = hybrid
        self.labels = list(labels_of(hybrid.config))
        self._preparing = Exactly(preprocessing, max_pixels)

    @property
    def model(self) -> ViTHybridForImageClassification:
        """The classifier in PyTorch. Where a name was given, it is read when it is first asked for, folded; what is
        done to it counts in all explanations from then on.

        Raises:
            ModelLoadError: It is not there any more.
        """
        if not isinstance(self.hybrid, Classifier):
            assert self._source is not None  # or there would be a classifier
            model, _ = classifier_of(self._source, None)
            self.hybrid = Classifier(model.to(self.hybrid.device))
        return self.hybrid.model

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = BUILT_IN_MODEL,
        device: str | torch.device | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        max_pixels: int | None = None,
        confidence: bool = True,
    ) -> Explainer:
        """Opens a model by whatever names one, and its preprocessing.

        Args:
            name: What `Predictor.from_pretrained` takes. Of a bundle its twin is explained, the PyTorch model that it
                was exported from: in the package, here under the name that it had, or beside the bundle. A model
                without a classifier has attention to show, and nothing of labels.
            device: Where to run; by default the accelerator that torch finds, else the CPU.
            image_size: (height, width) in pixels that pictures are brought to instead of the model's own.
            max_pixels: See the class.
            confidence: Whether probabilities are calibrated, where `vit-hybrid calibrate` fitted something.

        Raises:
            ModelLoadError: There is no such model, it cannot be used, or it is a bundle whose twin is not here.
            ValueError: If another argument cannot be used.
        """
        from ..engines.devices import usable_device

        given = os.path.expanduser(os.fspath(name))
        source, twin = explainable(given)
        hybrid, why = opened(source, image_size, usable_device(device))
        explainer = cls.__new__(cls)
        explainer.twin = twin
        explainer._source = source
        explainer._why_no_labels = None if why is None else str(why)
        explainer._confidence = source.confidence() if confidence else None
        preprocessing = None if image_size is not None else source.preprocessing
        explainer._take(hybrid, preprocessing or source.processor(image_size), max_pixels)
        return explainer

    def explain(
        self,
        image: ImageSource,
        method: Method = DEFAULT_METHOD,
        labels: Label | Sequence[Label] | None = None,
        *,
        layer: Label | None = None,
        head: int | None = None,
        fusion: Fusion = DEFAULT_FUSION,
        discard: float = 0.0,
        token: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> list[Explanation]:
        """Maps of what the model looked at in a picture, one for each label.

        Args:
            image: The picture: see `ImageSource`.
            method: "rollout": attention of all layers and heads, and the residual, multiplied; "attention": of a single
                layer. Of a label: "grad-cam": which parts of a map raise it; "relevance": gradients times attention,
                accumulated over the layers; "legrad": gradients by attention alone, summed up. `attention` and
                `gradients` have the sources.
            labels: What to explain: names or places of labels, one or several; by default the label that the model
                gives first, of a regression the first output. Attention and rollout are the same for all labels.
            layer: For "attention" the layer, from 1, by default the last. For "grad-cam" a map of the ResNet's
                ("stem", "stage1", ...), by default its last, or of the encoder's ("layer1", ... or the number alone).
            head: For "attention" a single head, from 1; all of them by default.
            fusion: For "rollout" and "attention" what makes one of all heads: "mean", "max" or "min".
            discard: For "rollout" the share of each layer's weights, the smallest, that count as zero.
            token: For "rollout" and "attention" the (row, column) of the token that looks, from 0; the class token by
                default.
            name: What to call the picture in errors.

        Raises:
            ImageReadError: The picture cannot be read.
            ValueError: An argument cannot be used; the gradient of that layer is zero by structure; the model has no
                classifier and the method needs one; or the model's outputs are not finite.
        """
        layer = self.check(method, labels, layer=layer, head=head, fusion=fusion, discard=discard, token=token)
        picture = self._preparing.opened(image, name)
        pixels = self.prepared(picture, name)
        shown_picture = as_rgb(picture)
        names = attention_names(self.hybrid)
        wanted = {
            GRAD_CAM: [str(layer)],
            ATTENTION: [str(layer).replace("layer", "attention")],
            LEGRAD: [*names, *(name.replace("attention", "layer") for name in names)],
        }.get(method, names)
        with through(self.hybrid, pixels, wanted, gradients=method in OF_LABELS) as run:
            logits = run.value(LOGITS)
            if not np.isfinite(logits).all():
                raise ValueError("the model's outputs are not finite numbers; explain it in float32.")
            if method in OF_LABELS:
                indices: list[int | None] = [*(self._indices(labels) or [self._first(logits)])]
            else:
                indices = [None]
            maps = []
            for index in indices:
                if index is None:
                    found = self._attention_map(run, method, wanted, head, fusion, discard, token)
                else:
                    found = self._label_map(run, method, index, names, str(layer))
                maps.append(np.ascontiguousarray(found, np.float32))
            grid = run.grid
        predictions = self._said(logits)
        return [
            Explanation(
                map=found,
                grid=grid,
                method=method,
                label=None if index is None else self.labels[index],
                index=index,
                layer=layer,
                head=head,
                predictions=predictions,
                picture=shown_picture,
                pixels=pixels,
                view=view_of(self._preparing.preprocessing, shown_picture.size),
                twin=self.twin,
            )
            for index, found in zip(indices, maps, strict=True)
        ]

    def prepared(self, image: ImageSource, name: str | None = None) -> Array:
        """What the model takes of a picture: (C, H, W) float32.

        Args:
            image: The picture: see `ImageSource`.
            name: What to call it in errors.

        Raises:
            ImageReadError: It cannot be read.
            ValueError: It cannot be preprocessed.
        """
        return np.asarray(self._preparing(image, name))

    def heads(self, pixels: Array) -> Array:
        """What the class token looks at in every layer and head: (layers, heads, rows, columns), float32.

        Args:
            pixels: What the model takes of a picture, (C, H, W): `Explanation.pixels`.

        Raises:
            ValueError: The encoder has no layers.
        """
        self._check_layers()
        names = attention_names(self.hybrid)
        with through(self.hybrid, pixels, names) as run:
            found = np.stack([run.value(name)[:, 0, 1:] for name in names])  # (L, H, T - 1)
            return found.reshape(*found.shape[:2], *run.grid)

    def check(
        self,
        method: Method = DEFAULT_METHOD,
        labels: Label | Sequence[Label] | None = None,
        *,
        layer: Label | None = None,
        head: int | None = None,
        fusion: Fusion = DEFAULT_FUSION,
        discard: float = 0.0,
        token: tuple[int, int] | None = None,
    ) -> str | None:
        """Whether `explain` can be asked for this, without a picture.

        Returns:
            The layer that the map is made from, where the method goes by one.

        Raises:
            ValueError: It cannot; the message says why.
        """
        if method not in METHODS:
            raise ValueError(f"{argument('method')} is {method!r}; expected {', '.join(METHODS)}.")
        given = {
            "layer": layer is not None,
            "head": head is not None,
            "fusion": fusion != DEFAULT_FUSION,
            "discard": discard != 0,
            "token": token is not None,
        }
        for name, methods in TAKES.items():
            if given[name] and method not in methods:
                raise ValueError(f"{argument(name)} is for {' and '.join(methods)}, and {method} was asked for.")
        self._indices(labels)
        if method in OF_LABELS and not self.labels:
            why = f" ({self._why_no_labels.rstrip('.')})" if self._why_no_labels else ""
            raise ValueError(
                f"{method} explains a label, and this model has no classifier{why}; rollout and attention need none."
            )
        attention.check_fusion(fusion)
        attention.check_discard(discard)
        config, how = self.hybrid.config, self._preparing.preprocessing
        if how.do_center_crop and how.crop_size == as_pair(
            config.image_size
        ):  # else each picture has tokens of its own
            attention.check_token(token_grid(config), token)
        if method != GRAD_CAM:
            self._check_layers()
        if head is not None and not 1 <= head <= config.num_attention_heads:
            raise ValueError(f"{argument('head')} is {head}; the layers have heads 1 to {config.num_attention_heads}.")
        if head is not None and fusion != DEFAULT_FUSION:
            raise ValueError(f"{argument('fusion')} is for all heads, and {argument('head')} asks for a single one.")
        return self._layer(method, layer)

    def _layer(self, method: str, layer: Label | None) -> str | None:
        """The name of the layer among `feature_names`; None where the method takes none."""
        if method not in TAKES["layer"]:
            return None
        names = feature_names(self.hybrid.config)
        encoder = [name for name in names if name.startswith("layer")]
        if layer is None:
            return str(encoder[-1] if method == ATTENTION else names[-1 - len(encoder)])
        match = LAYER.fullmatch(str(layer))
        found = str(layer) if match is None else f"layer{int(match[1])}"
        if method == GRAD_CAM:
            gradients.check_layer(found, names)
        elif found not in encoder:
            raise ValueError(f"{argument('layer')} is {layer!r}; attention is in layers 1 to {len(encoder)}.")
        return found

    def _check_layers(self) -> None:
        if not self.hybrid.config.num_hidden_layers:
            raise ValueError("this model's encoder has no layers, and so no attention to show.")

    def _indices(self, labels: Label | Sequence[Label] | None) -> list[int]:
        """The places of labels, each once."""
        if labels is None:
            return []
        given = [labels] if isinstance(labels, str | int) else labels
        return [*dict.fromkeys(self._index(label) for label in given)]

    def _index(self, label: Label) -> int:
        """The place of a label among the model's: by its name, else by its number.

        Raises:
            ValueError: There is no such label, or several of that name.
        """
        places = [place for place, name in enumerate(self.labels) if name == label]
        if isinstance(label, str) and not places:
            places = [place for place, name in enumerate(self.labels) if name.casefold() == label.casefold()]
        if len(places) > 1:
            numbers = ", ".join(map(str, places[:5]))
            raise ValueError(f"several labels are called {shown(label)!r}; give the number of one: {numbers}.")
        if places:
            return places[0]
        is_number = label.isdecimal() if isinstance(label, str) else not isinstance(label, bool)
        if is_number and 0 <= int(label) < len(self.labels):
            return int(label)
        near = difflib.get_close_matches(str(label), self.labels, n=1)
        hint = f"; did you mean {shown(near[0])!r}?" if near else "."
        raise ValueError(
            f"{argument('labels')} has {shown(label)!r}; expected one of the model's {len(self.labels)} labels by its "
            f"name, or its number, from 0 to {len(self.labels) - 1}{hint}"
        )

    def _first(self, logits: Array) -> int:
        return 0 if problem_type_of(self.hybrid.config) == REGRESSION else int(logits.argmax())

    def _said(self, logits: Array) -> list[dict[str, Any]]:
        if not self.labels:
            return []
        problem_type = problem_type_of(self.hybrid.config)
        if problem_type == REGRESSION:
            return [{"label": label, "value": float(one)} for label, one in zip(self.labels, logits, strict=True)]
        if self._confidence is not None:
            logits = self._confidence.calibrated(logits)
        return [{**one} for one in ranked(logits, self.labels, problem_type)]

    def _attention_map(
        self,
        run: Pass,
        method: str,
        names: Sequence[str],
        head: int | None,
        fusion: str,
        discard: float,
        token: tuple[int, int] | None,
    ) -> Array:
        if method == ROLLOUT:
            matrix = attention.rollout(map(run.value, names), fusion, discard)
        else:
            [weights] = map(run.value, names)
            matrix = attention.fused(weights, fusion) if head is None else weights[head - 1]
        return attention.row_of(matrix, run.grid, token)

    def _label_map(self, run: Pass, method: str, index: int, names: Sequence[str], layer: str) -> Array:
        if method == GRAD_CAM:
            return gradients.grad_cam(run.map(layer), run.map_gradient(layer, index))
        if method == LEGRAD:
            return gradients.legrad(run.own_gradients(index))[1:].reshape(run.grid)
        matrix = gradients.relevance(map(run.value, names), run.gradients(index, names))
        return attention.row_of(matrix, run.grid)


def explain(
    image: ImageSource,
    method: Method = DEFAULT_METHOD,
    labels: Label | Sequence[Label] | None = None,
    *,
    model: str | os.PathLike[str] | ViTHybridForImageClassification | Predictor = BUILT_IN_MODEL,
    preprocessing: Any = None,
    device: str | torch.device | None = None,
    image_size: tuple[int, int] | None = None,
    max_pixels: int | None = None,
    **how: Any,
) -> list[Explanation]:
    """Maps of what a model looked at in a picture, one for each label: `Explainer` for a single picture.

    Args:
        image, method, labels: See `Explainer.explain`.
        model: What names a model, or a classifier or predictor as `Explainer` takes it.
        preprocessing: Of a classifier given as an object: see `Explainer`.
        device, image_size: Of a model by its name: see `Explainer.from_pretrained`.
        max_pixels: See `Explainer`.
        how: `layer`, `head`, `fusion`, `discard`, `token`, `name` of `Explainer.explain`.

    Raises:
        ImageReadError: The picture cannot be read.
        ValueError: As for `Explainer` and its methods.
    """
    if isinstance(model, str | os.PathLike):
        explainer = Explainer.from_pretrained(model, device, image_size=image_size, max_pixels=max_pixels)
    else:
        explainer = Explainer(model, preprocessing, max_pixels)
    return explainer.explain(image, method, labels, **how)


def view_of(preprocessing: Preprocessing, size: tuple[int, int]) -> View:
    """What of a picture of that (width, height) is left by preprocessing."""
    width, height = size
    resized = resized_size(height, width, preprocessing.size) if preprocessing.do_resize else (height, width)
    box = (0, 0, *resized)
    if preprocessing.do_center_crop:
        (top, bottom), (left, right) = map(crop_span, resized, preprocessing.crop_size)
        box = (top, left, bottom, right)
    return View(size, resized, box)


def as_rgb(picture: Image.Image | Array) -> Image.Image:
    """A picture or an array of levels as it is shown; what are no levels of 0 to 255 or fractions, in gray."""
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    values = channels_last(picture, infer_layout(picture.shape))
    try:
        return to_rgb(to_picture(values)[0])
    except ValueError:  # on the scale of the model, or of channels that have no color
        gray = drawing.scaled(values.mean(axis=-1, dtype=np.float64))
        return Image.fromarray((gray * 255).round().astype(np.uint8)).convert("RGB")


__all__ = ["Explainer", "as_rgb", "explain", "view_of"]
