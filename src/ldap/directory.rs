#![forbid(unsafe_code)]
//! All that a server shows: the entries of a file, those of the accounts, and its own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dn::Dn;
use super::filter::Filter;
use super::schema::Schema;
use super::search::{Part, Scope};
use super::special;
use super::tree::Tree;
use crate::accounts::Accounts;

/// Where the accounts are entries.
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) dn: Dn,
}

/// A directory.
pub(crate) struct Directory {
    file: Arc<Tree>,
    holder: Option<Holder>,
    accounts: Arc<Accounts>,
    /// The accounts' entries, and which accounts they are of.
    shown: Mutex<Option<(u64, Arc<Tree>)>>,
    subschema: Arc<Tree>,
    /// Without StartTLS, and with it.
    root_dse: [Arc<Tree>; 2],
}

impl Directory {
    pub(crate) fn new(file: Tree, holder: Option<Holder>, accounts: Arc<Accounts>) -> Self {
        let schema = Arc::clone(&file.schema);
        let tops = file.tops.iter().map(|id| &*file.entry(*id).name);
        let lone = holder
            .as_ref()
            .filter(|holder| file.find(&holder.dn.key_above(1)).is_none());
        let contexts = tops.chain(lone.map(|holder| holder.name.as_str()));
        let contexts: Vec<String> = contexts.map(str::to_owned).collect();
        let root_dse = [false, true].map(|may_start_tls| {
            let contexts = contexts.iter().map(String::as_str);
            Arc::new(special::root_dse(&schema, contexts, may_start_tls))
        });
        Directory {
            subschema: Arc::new(special::subschema(&schema)),
            root_dse,
            file: Arc::new(file),
            holder,
            accounts,
            shown: Mutex::default(),
        }
    }

    pub(crate) fn schema(&self) -> &Arc<Schema> {
        &self.file.schema
    }

    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The accounts' entries as they are now.
    fn shown(&self) -> Option<Arc<Tree>> {
        let holder = self.holder.as_ref()?;
        let changes = self.accounts.changes();
        let mut shown = self.shown.lock();
        match &*shown {
            Some((of, tree)) if *of == changes => Some(Arc::clone(tree)),
            _ => {
                let all = self.accounts.all();
                let names = all.iter().map(|account| &**account.name());
                let tree = Arc::new(super::accounts::tree(&holder.name, names, self.schema()));
                *shown = Some((changes, Arc::clone(&tree)));
                Some(tree)
            }
        }
    }

    /// The entry of a name, the server's own among them.
    pub(crate) fn find(&self, dn: &Dn, may_start_tls: bool) -> Option<(Arc<Tree>, u32)> {
        if dn.is_empty() {
            return Some((Arc::clone(&self.root_dse[usize::from(may_start_tls)]), 0));
        }
        let key = dn.key();
        let all = [
            Some(Arc::clone(&self.file)),
            self.shown(),
            Some(Arc::clone(&self.subschema)),
        ];
        all.into_iter()
            .flatten()
            .find_map(|tree| tree.find(&key).map(|id| (tree, id)))
    }

    /// The name of the nearest entry above one that is not there (RFC 4511, 4.1.9); empty where there is none.
    pub(crate) fn matched(&self, dn: &Dn) -> String {
        let shown = self.shown();
        let trees = || std::iter::once(&self.file).chain(&shown);
        let above = (1..dn.len()).map(|skipped| dn.key_above(skipped));
        let found = above.into_iter().find_map(|key| {
            trees().find_map(|tree| tree.find(&key).map(|id| tree.entry(id).name.to_string()))
        });
        found.unwrap_or_default()
    }

    /// Where a search looks; `None` when its base is not there.
    pub(crate) fn parts(
        &self,
        base: &Dn,
        scope: Scope,
        filter: &Filter,
        may_start_tls: bool,
    ) -> Option<VecDeque<Part>> {
        if base.is_empty() && scope != Scope::Base {
            return Some(self.all(scope, filter));
        }
        let (tree, id) = self.find(base, may_start_tls)?;
        let in_file = Arc::ptr_eq(&tree, &self.file);
        let mut parts = VecDeque::from([Part::new(tree, id, scope, filter)]);
        if in_file && let Some(below) = self.holder_below(base, scope) {
            parts.push_back(Part::new(below, 0, self.scope_of_holder(scope), filter));
        }
        Some(parts)
    }

    /// What stands below the nameless root: each context of names.
    fn all(&self, scope: Scope, filter: &Filter) -> VecDeque<Part> {
        let scope = self.scope_of_holder(scope);
        let tops = self
            .file
            .tops
            .iter()
            .map(|top| Part::new(Arc::clone(&self.file), *top, scope, filter));
        let mut parts: VecDeque<Part> = tops.collect();
        if let Some(holder) = &self.holder
            && (scope == Scope::Subtree || self.file.find(&holder.dn.key_above(1)).is_none())
            && let Some(shown) = self.shown()
        {
            parts.push_back(Part::new(shown, 0, scope, filter));
        }
        parts
    }

    /// One level from above is the top alone.
    fn scope_of_holder(&self, scope: Scope) -> Scope {
        match scope {
            Scope::Subtree => Scope::Subtree,
            Scope::Base | Scope::One => Scope::Base,
        }
    }

    /// The accounts' entries, where they stand below an entry of the file and are meant.
    fn holder_below(&self, base: &Dn, scope: Scope) -> Option<Arc<Tree>> {
        let holder = self.holder.as_ref()?;
        let key = base.key();
        let levels = match scope {
            Scope::Base => return None,
            Scope::One => 2,
            Scope::Subtree => holder.dn.len(),
        };
        let is_below = (1..levels).any(|skipped| holder.dn.key_above(skipped) == key);
        if is_below { self.shown() } else { None }
    }
}
