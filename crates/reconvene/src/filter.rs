//! Which meetings are wanted: decided from a meeting's index row alone.

use std::collections::BTreeSet;

use icu_normalizer::ComposingNormalizerBorrowed;
use reconvene_core::time::WallTime;
use reconvene_model::index::MeetingRow;
use reconvene_model::{ProjectId, State};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::limits::{FILTER_TAGS_MAX, FILTER_TEXT_BYTES_MAX};

/// Which meetings are wanted: those that satisfy every condition that is set. The default wants all
/// that are not deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeetingFilter {
    /// Filed under this project.
    pub project: Option<ProjectId>,
    /// In one of these states; none: in any, or in none yet.
    pub states: BTreeSet<State>,
    /// Created at this moment or later. Without a known moment of creation a meeting is not wanted.
    pub since: Option<WallTime>,
    /// Created before this moment; likewise.
    pub until: Option<WallTime>,
    /// With this text in its title: in any case and in any Unicode form, `ß` being like `ss`.
    pub text: Option<String>,
    /// With every one of these tags.
    pub tags: BTreeSet<String>,
    /// Deleted, instead of not deleted.
    pub deleted: bool,
}

/// A checked filter, ready to be asked many times.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    filter: MeetingFilter,
    text: Option<String>,
}

impl Matcher {
    /// Checks a filter.
    ///
    /// # Errors
    /// If a bound is exceeded, or its times can never be met.
    pub(crate) fn new(filter: MeetingFilter) -> Result<Self, Error> {
        let length = filter.text.as_ref().map_or(0, String::len);
        if length > FILTER_TEXT_BYTES_MAX {
            return Err(Error::BadInput(format!(
                "a text to look for has at most {FILTER_TEXT_BYTES_MAX} bytes, this one {length}"
            )));
        }
        if filter.tags.len() > FILTER_TAGS_MAX {
            return Err(Error::BadInput(format!(
                "a filter has at most {FILTER_TAGS_MAX} tags, this one {}",
                filter.tags.len()
            )));
        }
        if let (Some(since), Some(until)) = (filter.since, filter.until)
            && since >= until
        {
            return Err(Error::BadInput(
                "no meeting is created both since the one moment and before the other: the time \
                 range is empty"
                    .to_owned(),
            ));
        }
        let text = filter.text.as_deref().map(fold);
        Ok(Self { filter, text })
    }

    /// Whether everything is wanted.
    pub(crate) fn is_all(&self) -> bool {
        self.filter == MeetingFilter::default()
    }

    /// Whether a meeting is wanted.
    pub(crate) fn matches(&self, row: &MeetingRow, is_deleted: bool) -> bool {
        let filter = &self.filter;
        let created = |wanted: &dyn Fn(WallTime) -> bool| row.created_at.is_some_and(wanted);
        filter.deleted == is_deleted
            && filter.project.is_none_or(|id| row.project == Some(id))
            && (filter.states.is_empty()
                || row
                    .state
                    .is_some_and(|state| filter.states.contains(&state)))
            && filter.since.is_none_or(|since| created(&|at| at >= since))
            && filter.until.is_none_or(|until| created(&|at| at < until))
            && filter.tags.iter().all(|tag| row.tags.contains(tag))
            && self
                .text
                .as_ref()
                .is_none_or(|text| fold(&row.title).contains(text.as_str()))
    }
}

/// A text without its case and its choice among equivalent forms.
fn fold(text: &str) -> String {
    // To upper case first: it is what unites `ß` with `ss`, and the two small sigmas.
    let upper = text.chars().flat_map(char::to_uppercase);
    let folded: String = upper.flat_map(char::to_lowercase).collect();
    ComposingNormalizerBorrowed::new_nfkc()
        .normalize(&folded)
        .into_owned()
}

#[cfg(test)]
mod tests;
