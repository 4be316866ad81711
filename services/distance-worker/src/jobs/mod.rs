//! A file per kind of job.

pub mod distance;
