"""A trained system as one folder that can be run; the small ones that ship lie beside this file."""

from audiolm_jax.bundles.bundle import Bundle, token_hash
from audiolm_jax.bundles.folder import list_bundles, load_bundle, save_bundle

__all__ = ["Bundle", "list_bundles", "load_bundle", "save_bundle", "token_hash"]
