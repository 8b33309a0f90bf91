//! What people import: thin.
