//! Which examples share a sequence.

/// Puts items of these lengths into packs of at most `budget` together, each into the first that has room, in their order;
/// one that is longer has a pack for itself. The answer has the items' numbers.
pub fn first_fit(lens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
    for (item, len) in lens.iter().copied().enumerate() {
        match packs.iter_mut().find(|(used, _)| used + len <= budget) {
            Some((used, items)) => {
                *used += len;
                items.push(item);
            }
            None => packs.push((len, vec![item])),
        }
    }
    packs.into_iter().map(|(_, items)| items).collect()
}

#[cfg(test)]
mod tests {
    use super::first_fit;

    #[test]
    fn packs_are_filled_up_to_the_budget_in_any_order() {
        assert_eq!(first_fit(&[3, 4, 2, 9, 1], 6), [vec![0, 2, 4], vec![1], vec![3]]);
        assert_eq!(first_fit(&[], 6), Vec::<Vec<usize>>::new());
        let mut lens = [5, 1, 4, 2, 3, 3, 2, 4, 1, 5];
        for _ in 0..lens.len() {
            lens.rotate_left(3);
            let packs = first_fit(&lens, 6);
            let mut items: Vec<usize> = packs.concat();
            items.sort_unstable();
            assert_eq!(items, (0..lens.len()).collect::<Vec<_>>());
            assert!(packs.iter().all(|pack| pack.iter().map(|item| lens[*item]).sum::<usize>() <= 6));
        }
    }
}
