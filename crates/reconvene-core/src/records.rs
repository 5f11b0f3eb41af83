//! Stored records: the generated messages, checked.
