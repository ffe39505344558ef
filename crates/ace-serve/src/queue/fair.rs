//! Whose turn it is: clients take turns, and the jobs of each come in their order.

use std::collections::VecDeque;

/// Jobs that wait, by client.
#[derive(Debug, Default)]
pub struct Fair {
    clients: VecDeque<(String, VecDeque<String>)>,
}

impl Fair {
    /// A job waits behind those of its client.
    pub fn push(&mut self, client: &str, job: String) {
        match self.clients.iter_mut().find(|(known, _)| known == client) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.clients.push_back((client.to_owned(), VecDeque::from([job]))),
        }
    }

    /// The job whose turn it is; its client's next turn is after those of all others.
    pub fn pop(&mut self) -> Option<String> {
        let (client, mut jobs) = self.clients.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.clients.push_back((client, jobs));
        }
        job
    }

    /// A job waits no more; whether it did.
    pub fn remove(&mut self, job: &str) -> bool {
        let before = self.len();
        for (_, jobs) in &mut self.clients {
            jobs.retain(|waiting| waiting != job);
        }
        self.clients.retain(|(_, jobs)| !jobs.is_empty());
        self.len() < before
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.clients.iter().map(|(_, jobs)| jobs.len()).sum()
    }

    /// Every job that waits, in the order in which their turns come if no other joins.
    pub fn in_order(&self) -> Vec<&str> {
        let most = self.clients.iter().map(|(_, jobs)| jobs.len()).max().unwrap_or_default();
        let round = |nth: usize| self.clients.iter().filter_map(move |(_, jobs)| jobs.get(nth).map(String::as_str));
        (0..most).flat_map(round).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_asks_for_much_does_not_keep_another_waiting() {
        let mut queue = Fair::default();
        for job in ["a1", "a2", "a3"] {
            queue.push("a", job.to_owned());
        }
        queue.push("b", "b1".to_owned());
        assert_eq!(queue.in_order(), ["a1", "b1", "a2", "a3"]);
        assert_eq!(queue.pop().as_deref(), Some("a1"));
        queue.push("c", "c1".to_owned());
        let order: Vec<String> = queue.in_order().into_iter().map(str::to_owned).collect();
        assert_eq!(order, ["b1", "a2", "c1", "a3"]);
        assert!(queue.remove("a2"));
        assert!(!queue.remove("a2"));
        let rest: Vec<String> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, ["b1", "a3", "c1"]);
        assert_eq!(queue.len(), 0);
    }
}
