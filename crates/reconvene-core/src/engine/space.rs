//! A disk with too little room. What is on its way then fails as with any other failure; from then on
//! nothing is given to the store until it says that there is room. Meanwhile everything that only
//! reads goes on, peers get what they lack, what people ask for is refused after asking the store once
//! more, by an answer to a question that came after it, and what peers send waits, unacknowledged,
//! within the window of their link.

use super::ingest::Job;
use super::{Engine, Event, Output};
use crate::ids::LinkId;
use crate::limits;
use crate::mutants::Mutant;
use crate::storage::StoreError;
use crate::time::Tick;

#[derive(Debug)]
pub(super) struct LowSpace {
    error: StoreError,
    /// Whether the store has yet to answer.
    is_asked: bool,
    ask_at: Tick,
}

impl LowSpace {
    pub(super) fn error(&self) -> &StoreError {
        &self.error
    }
}

impl Engine {
    pub(super) fn note_low_space(&mut self, error: &StoreError) {
        if matches!(error, StoreError::LowSpace { .. }) && self.low_space.is_none() {
            self.low_space = Some(LowSpace {
                error: error.clone(),
                is_asked: false,
                ask_at: self.now.tick + limits::ROOM_ASKED_EVERY,
            });
        }
    }

    pub(super) fn room_due(&self) -> Option<Tick> {
        let low = self.low_space.as_ref()?;
        (!low.is_asked && !self.is(Mutant::NeverAsksForRoom)).then_some(low.ask_at)
    }

    /// Whether the store was asked for room and has not answered yet.
    pub(super) fn is_asked_for_room(&self) -> bool {
        self.low_space.as_ref().is_some_and(|low| low.is_asked)
    }

    /// Asks the store whether there is room by now, where it said that there is not.
    pub(super) fn ask_room(&mut self) {
        if let Some(low) = &mut self.low_space
            && !low.is_asked
        {
            low.is_asked = true;
            self.outputs.push_back(Output::AskRoom);
        }
    }

    pub(super) fn on_room(&mut self, room: Result<(), StoreError>) {
        if self.low_space.is_none() {
            return;
        }
        match room {
            Ok(()) => {
                self.low_space = None;
                self.emit(Event::RoomAgain);
            }
            Err(error) => {
                let is_answered = |job: &Job| job.work.is_waited_for() && !job.is_past_question;
                self.refuse_jobs(&error, is_answered);
                self.low_space = Some(LowSpace {
                    error: error.clone(),
                    is_asked: false,
                    ask_at: self.now.tick + limits::ROOM_ASKED_EVERY,
                });
                self.emit(Event::LowSpace { error });
                // What came since the question is answered by the next one.
                if self.jobs.iter().any(|job| job.is_past_question) {
                    self.ask_room();
                }
            }
        }
        for job in &mut self.jobs {
            job.is_past_question = false;
        }
    }

    /// What came on a link that is gone and waits for room is not stored: it will come again, and
    /// would otherwise pile up with each link.
    pub(super) fn drop_waiting(&mut self, gone: LinkId) {
        if let Some(low) = &self.low_space {
            let error = low.error.clone();
            self.refuse_jobs(&error, |job| job.work.came_with(gone));
        }
    }

    /// Nothing waits for room any more: the engine ends.
    pub(super) fn give_up_waiting(&mut self) {
        if let Some(low) = &self.low_space {
            let error = low.error.clone();
            self.refuse_jobs(&error, |_| true);
        }
    }
}
