//! Edits of several documents of one workspace that become durable together or not at all.

use std::collections::BTreeMap;

use reconvene_core::engine::{Edit, EditedDocument};
use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_model::{Editor, ModelError};

use crate::documents::Lease;
use crate::replica::{EditMode, Edited, request_id};
use crate::{Error, Replica};

/// One document's part of it.
pub(crate) struct Part {
    id: DocumentId,
    mode: EditMode,
    edit: PartEdit,
}

type PartEdit = Box<dyn FnOnce(&mut Editor) -> Result<(), ModelError> + Send>;

impl Part {
    pub(crate) fn new(
        id: DocumentId,
        mode: EditMode,
        edit: impl FnOnce(&mut Editor) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        let edit = Box::new(edit);
        Self { id, mode, edit }
    }
}

impl Replica {
    /// Edits documents in one batch; resolves when it is durable. If one edit is refused none is made.
    ///
    /// Like [`Self::edit_document`] it runs in a task of its own: dropping this stops nothing halfway.
    pub(crate) async fn edit_together(
        &self,
        workspace: WorkspaceId,
        parts: Vec<Part>,
    ) -> Result<(), Error> {
        let replica = self.clone();
        let whole = async move { replica.edit_parts(workspace, parts).await };
        tokio::spawn(whole).await.map_err(|_| Error::Closed)?
    }

    async fn edit_parts(&self, workspace: WorkspaceId, mut parts: Vec<Part>) -> Result<(), Error> {
        // Whoever locks several documents locks them in this order.
        parts.sort_by_key(|part| part.id);
        let twice = parts.windows(2).any(|pair| pair[0].id == pair[1].id);
        assert!(
            !twice,
            "a document has one part in a batch: a second would wait for the first"
        );
        let mut work = Vec::with_capacity(parts.len());
        for part in parts {
            let lease = self.shared.documents.lease(workspace, part.id).await;
            work.push((lease, part));
        }
        let incarnation = self.shared.documents.incarnation()?;
        let edited = self
            .blocking(move |shared| {
                let mut edited: Vec<(DocumentId, Edited<()>)> = Vec::with_capacity(work.len());
                for (lease, Part { id, mode, edit }) in work {
                    match shared.edit_leased(lease, id, mode, incarnation, edit) {
                        Ok(done) => edited.push((id, done)),
                        Err(error) => {
                            // What the others hold now will not be stored.
                            for (_, done) in edited {
                                let mut lease = done.lease;
                                if done.document.is_some() {
                                    lease.forget();
                                }
                                shared.documents.give_back(lease);
                            }
                            return Err(error);
                        }
                    }
                }
                Ok(edited)
            })
            .await;
        let edited = edited.inspect_err(|error| {
            if matches!(error, Error::EditPanicked(_)) {
                self.shared.documents.forget_incarnation();
            }
        })?;
        let mut documents: Vec<EditedDocument> = Vec::with_capacity(edited.len());
        let mut rows = Vec::new();
        let mut leases: Vec<(DocumentId, Lease)> = Vec::with_capacity(edited.len());
        let mut news = Vec::new();
        let mut looks = Vec::new();
        for (id, done) in edited {
            documents.extend(done.document);
            rows.extend(done.rows);
            news.extend(done.news);
            looks.extend(done.look);
            leases.push((id, done.lease));
        }
        let made: BTreeMap<_, _> = documents
            .iter()
            .map(|edited| (edited.document, edited.changes.clone()))
            .collect();
        let mut durable = None;
        if !documents.is_empty() {
            let edit = Edit {
                request: request_id(),
                workspace,
                documents,
                rows,
            };
            durable = Some(self.shared.driver.edit(edit).await?);
        }
        let mut local = Vec::with_capacity(made.len());
        for (id, lease) in leases {
            if let Some(changes) = made.get(&id) {
                let edit = self.shared.documents.note_local(&lease, changes.clone());
                local.push((id, edit));
            }
            self.shared.documents.give_back(lease);
        }
        let Some(durable) = durable else {
            return Ok(());
        };
        self.confirm(workspace, &local, durable).await?;
        self.tell(news);
        self.shared.findings.note(looks);
        Ok(())
    }
}
