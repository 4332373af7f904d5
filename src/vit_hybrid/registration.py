"""Tells transformers about `vit-hybrid`: the Auto classes, the pipelines and, on request, the old import paths.

Importing `vit_hybrid` calls `register`. It imports nothing from transformers and no model code: it writes *names* into
the registry tables of `transformers.models.auto`, which transformers itself resolves to classes when somebody asks for
them. Tables that are loaded already are filled at once; the others are filled by an import hook in the moment they have
been executed, before anybody can read them. The hook must not import model code: `transformers.modeling_utils` loads
`configuration_auto`, and `transformers.modeling_layers` loads `modeling_auto`, while they are half loaded themselves.

transformers resolves a name by importing `transformers.models.vit_hybrid`, which no transformers 5 has; the same hook
serves that module as a thin alias of this package.

Precedence: a transformers that brings a `vit_hybrid` of its own keeps it (with a warning), and classes that a program
registered itself with `AutoConfig.register` win over the names written here, as they win over transformers' own.

Only the standard library is imported here, so that `import vit_hybrid` stays cheap.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODEL_TYPE = "vit-hybrid"
BACKBONE_TYPE = "vit-hybrid-backbone"
SUPPORTED_TRANSFORMERS = ">=5.18,<6"

# The classes transformers 4 had, and the module of this package that defines each.
FAMILY = {
    "ViTHybridConfig": "model.configuration",
    "ViTHybridImageProcessor": "images.image_processing",
    "ViTHybridPreTrainedModel": "model.modeling",
    "ViTHybridModel": "model.modeling",
    "ViTHybridForImageClassification": "model.modeling",
}
# The classes that transformers 4 had not, for its `AutoBackbone`.
BACKBONE_FAMILY = {
    "ViTHybridBackboneConfig": "model.feature_configuration",
    "ViTHybridBackbone": "model.feature_backbone",
}
# The modules transformers 4 had inside its `vit_hybrid` folder, and the module of this package that stands for each.
LEGACY_MODULES = {
    "configuration_vit_hybrid": "model.configuration",
    "image_processing_vit_hybrid": "images.image_processing",
    "modeling_vit_hybrid": "model.modeling",
}

_PACKAGE = __name__.rpartition(".")[0]
# Model type -> the class of its configurations.
_CONFIG_NAMES = {MODEL_TYPE: "ViTHybridConfig", BACKBONE_TYPE: "ViTHybridBackboneConfig"}
# One class serves every backend, so that `use_fast` and `backend` change nothing; "pil" first, as what a backend nobody
# has heard of falls back to.
_PROCESSOR_NAMES = {"pil": "ViTHybridImageProcessor", "torchvision": "ViTHybridImageProcessor"}

# Registry module -> (table of names, lazy mapping that reads the table, what to write for each model type).
_AUTO = "transformers.models.auto"
_REGISTRIES: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    f"{_AUTO}.configuration_auto": (("CONFIG_MAPPING_NAMES", "CONFIG_MAPPING", _CONFIG_NAMES),),
    f"{_AUTO}.modeling_auto": (
        ("MODEL_MAPPING_NAMES", "MODEL_MAPPING", {MODEL_TYPE: "ViTHybridModel"}),
        ("MODEL_FOR_IMAGE_MAPPING_NAMES", "MODEL_FOR_IMAGE_MAPPING", {MODEL_TYPE: "ViTHybridModel"}),
        (
            "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
            "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
            {MODEL_TYPE: "ViTHybridForImageClassification"},
        ),
        (  # a classifier's configuration too: its checkpoint is one of a backbone
            "MODEL_FOR_BACKBONE_MAPPING_NAMES",
            "MODEL_FOR_BACKBONE_MAPPING",
            dict.fromkeys(_CONFIG_NAMES, "ViTHybridBackbone"),
        ),
    ),
    f"{_AUTO}.image_processing_auto": (
        ("IMAGE_PROCESSOR_MAPPING_NAMES", "IMAGE_PROCESSOR_MAPPING", {MODEL_TYPE: _PROCESSOR_NAMES}),
    ),
}
# Where transformers looks up the folder of a model type whose folder has another name.
_FOLDERS = "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"

_TRANSFORMERS = "transformers"
_MODELS = "transformers.models"
_DEPRECATED = "transformers.models.deprecated"
_ALIAS = "transformers.models.vit_hybrid"
_DEPRECATED_ALIAS = "transformers.models.deprecated.vit_hybrid"
# This module executes transformers' `__init__` a second time, and the outcome takes the place of the first.
_REPLACES_TRANSFORMERS = "transformers.processing_utils"
_TO_RESTORE = (_TRANSFORMERS, _REPLACES_TRANSFORMERS, _MODELS, _DEPRECATED)


def register() -> None:
    """Makes transformers' Auto classes and pipelines know the model types `vit-hybrid` and `vit-hybrid-backbone`.

    Called by `import vit_hybrid`; calling it again does nothing more. Works whether transformers is loaded, half loaded
    or not loaded yet. Where transformers keeps its registry elsewhere than expected, a `RuntimeWarning` says so: the
    classes of this package can still be used directly.
    """
    finder = _install_finder()
    _visit_loaded_modules(finder)


def restore_transformers_names() -> None:
    """Puts the five classes back where transformers 4 had them, for code that cannot be changed.

    Afterwards `ViTHybridConfig`, `ViTHybridImageProcessor`, `ViTHybridPreTrainedModel`, `ViTHybridModel` and
    `ViTHybridForImageClassification` can be imported from `transformers`, from `transformers.models.vit_hybrid` and
    from `transformers.models.deprecated.vit_hybrid`, and `configuration_vit_hybrid`, `modeling_vit_hybrid` and
    `image_processing_vit_hybrid` from both folders; they are this package's modules, so pickles and monkey patches that
    name the old paths reach the classes in use. Nothing heavy is imported: names resolve on first use, and transformers
    may be loaded before or after this call. Calling it again does nothing more. Names transformers defines itself are
    left alone.
    """
    finder = _install_finder()
    finder.restored = True
    _visit_loaded_modules(finder)


class _Finder(MetaPathFinder):
    """Fills the registries as they load, and serves the modules transformers 5 no longer has."""

    def __init__(self) -> None:
        self.restored = False
        self._searching: set[tuple[int, str]] = set()

    @property
    def hooked(self) -> tuple[str, ...]:
        """The modules of transformers to visit; the configuration first, since the other registries are built on it."""
        return (*_REGISTRIES, *_TO_RESTORE) if self.restored else tuple(_REGISTRIES)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hooked, alias = fullname in self.hooked, self._is_alias(fullname)
        if not (hooked or alias):
            return None
        spec = self._find_elsewhere(fullname, path, target)
        if spec is None:
            is_package = fullname.rpartition(".")[2] not in LEGACY_MODULES
            return ModuleSpec(fullname, _AliasLoader(), is_package=is_package) if alias else None
        if hooked and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self)
        return spec

    def visit(self, name: str) -> None:
        """Do to one module of transformers what it is hooked for; nothing where it is not loaded, or failed to load."""
        module = sys.modules.get(name)
        if module is None:
            return
        if name == _REPLACES_TRANSFORMERS:
            self.visit(_TRANSFORMERS)
        elif name in _REGISTRIES:
            _fill_registry(module, name)
        elif self.restored:
            _restore_names(module, name)

    def _is_alias(self, fullname: str) -> bool:
        if self.restored and fullname == _DEPRECATED:
            return True
        parent, _, child = fullname.rpartition(".")
        package = parent if child in LEGACY_MODULES else fullname
        return package == _ALIAS or (self.restored and package == _DEPRECATED_ALIAS)

    def _find_elsewhere(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        # A finder like this one, installed by another package, may ask all finders in turn: do not ask back forever.
        search = (threading.get_ident(), fullname)
        if search in self._searching:
            return None
        self._searching.add(search)
        try:
            others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
            specs = (finder.find_spec(fullname, path, target) for finder in others)
            return next((spec for spec in specs if spec is not None), None)
        finally:
            self._searching.discard(search)


class _HookedLoader(Loader):
    """Executes a module with its own loader, then has it visited; leaves no trace of itself on the module."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_loader"), name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.visit(name)


class _AliasLoader(Loader):
    """Builds a module of transformers 4 from this package."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        legacy = name.rpartition(".")[2]
        if legacy in LEGACY_MODULES:
            # The very same module under a second name: classes, pickles and patches stay one.
            sys.modules[name] = importlib.import_module(f"{_PACKAGE}.{LEGACY_MODULES[legacy]}")
        elif name == _DEPRECATED:
            module.__dict__["__getattr__"] = _resolver_below(name)
        else:
            module.__doc__ = f"Stands for `{_PACKAGE}`, where the classes of {MODEL_TYPE} live now."
            names = [*FAMILY, *LEGACY_MODULES]
            module.__dict__.update(
                __all__=list(FAMILY),
                __getattr__=_resolver_below(name),
                __dir__=lambda: sorted({*module.__dict__, *names}),
            )


def _resolver_below(name: str) -> Callable[[str], Any]:
    """A `__getattr__` for the module `name`: our classes and the alias modules that lie below it, on first use."""

    def resolve(attribute: str) -> Any:
        if name != _DEPRECATED and attribute in {**FAMILY, **BACKBONE_FAMILY}:
            return getattr(importlib.import_module(_PACKAGE), attribute)
        if attribute in (("vit_hybrid",) if name == _DEPRECATED else LEGACY_MODULES):
            return importlib.import_module(f"{name}.{attribute}")
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    return resolve


class _WatchedSpec(ModuleSpec):
    """The spec of a module that somebody is importing right now: has the module visited when that import ends."""

    finder: _Finder

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("_initializing", False))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            self.__dict__.pop("finder").visit(self.name)


def _install_finder() -> _Finder:
    """The one finder at the front of `sys.meta_path`; takes over from one that an earlier load of this module left."""
    restored = False
    for finder in list(sys.meta_path):
        if isinstance(finder, _Finder):
            return finder
        if (type(finder).__module__, type(finder).__name__) == (__name__, _Finder.__name__):
            restored = bool(getattr(finder, "restored", False))
            sys.meta_path.remove(finder)
    installed = _Finder()
    installed.restored = restored
    sys.meta_path.insert(0, installed)
    return installed


def _visit_loaded_modules(finder: _Finder) -> None:
    for name in finder.hooked:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if isinstance(spec, ModuleSpec) and getattr(spec, "_initializing", False):
            # Half loaded, further up this very stack or in another thread: its tables may not exist yet.
            spec.__dict__["finder"] = finder
            spec.__class__ = _WatchedSpec
            if getattr(spec, "_initializing", False):
                continue
        finder.visit(name)


def _fill_registry(module: ModuleType, name: str) -> None:
    """Writes our names into one registry module, and makes sure that its mappings find them."""
    if _has_native_family():
        _warn(f"has a {MODEL_TYPE} of its own, which its Auto classes keep using")
        return
    if hasattr(module, _FOLDERS):
        getattr(module, _FOLDERS).setdefault(BACKBONE_TYPE, MODEL_TYPE.replace("-", "_"))
    for table_name, mapping_name, values in _REGISTRIES[name]:
        for model_type, value in values.items():
            config_name = _CONFIG_NAMES[model_type]
            try:
                table, mapping = getattr(module, table_name), getattr(module, mapping_name)
                table.setdefault(model_type, value)
                if table_name == "CONFIG_MAPPING_NAMES":
                    known = model_type in mapping
                else:
                    # Computed once from the names of all configurations, so a mapping that exists already must be told.
                    mapping._reverse_config_mapping.setdefault(config_name, model_type)
                    known = type(config_name, (), {}) in mapping
            except (AttributeError, TypeError):
                known = False
            if not known:
                place = f"{name}.{table_name}"
                _warn(f"keeps {place} differently, so its Auto classes and pipelines may not know {model_type}")


def _restore_names(module: ModuleType, name: str) -> None:
    """Lets one module of transformers find the classes, or the modules that hold them, when they are asked for."""
    if _has_native_family():
        return
    if name == _DEPRECATED:
        module.__dict__.setdefault("__getattr__", _resolver_below(name))
        return
    try:
        if name == _TRANSFORMERS:
            names = list(FAMILY)
            for family_name in names:
                module._class_to_module.setdefault(family_name, "models.vit_hybrid")
        else:
            names = ["vit_hybrid", "deprecated"]
            module._modules.update(names)
        module.__all__.extend(name for name in names if name not in module.__all__)
    except AttributeError:
        _warn(f"resolves the names of {name} differently, so the classes of {MODEL_TYPE} cannot be put back there")


def _has_native_family() -> bool:
    """Whether this transformers brings a `vit_hybrid` folder of its own, as transformers 4 did."""
    folders = getattr(sys.modules.get(_MODELS), "__path__", ())
    return any(
        os.path.isdir(os.path.join(folder, *parts))
        for folder in folders
        for parts in (("vit_hybrid",), ("deprecated", "vit_hybrid"))
    )


def _warn(fact: str) -> None:
    version = getattr(sys.modules.get(_TRANSFORMERS), "__version__", "(unknown version)")
    warnings.warn(
        f"transformers {version} {fact}. vit-hybrid is made for transformers {SUPPORTED_TRANSFORMERS}: install one of "
        f"these, or use the classes of `{_PACKAGE}` directly.",
        RuntimeWarning,
        stacklevel=2,
    )
