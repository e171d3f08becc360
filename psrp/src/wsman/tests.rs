//! Round trips, foreign spellings and damaged envelopes.
