//! Tensors of burn's CPU backend as slices, new ones without filling them first, and loops over all cores.

use super::product::Matrix;
use burn::tensor::{Bytes, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;
use rayon::prelude::*;
use std::{marker::PhantomData, mem::MaybeUninit};

/// Numbers that are worth a task of their own: some microseconds of work.
pub const GRAIN: usize = 1 << 14;

/// Runs `f` for 0..tasks, on all cores; `work` is how many numbers all of them touch.
pub fn each(tasks: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks < 2 || work <= GRAIN {
        (0..tasks).for_each(f);
    } else {
        (0..tasks).into_par_iter().for_each(f);
    }
}

/// Cuts `rows` of `width` numbers into tasks of about [`GRAIN`] numbers; `f` gets each task's first row and number of rows.
pub fn each_rows(rows: usize, width: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let per_task = (GRAIN / width.max(1)).max(1);
    each(rows.div_ceil(per_task), rows * width, |task| {
        let first = task * per_task;
        f(first, per_task.min(rows - first));
    });
}

/// A tensor whose numbers lie one after the other: itself, or a copy.
pub fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() {
        return tensor;
    }
    let Some(rows) = Rows::of(&tensor) else {
        return tensor.to_contiguous();
    };
    copied(rows).tensor(tensor.layout().shape().clone())
}

fn copied(rows: Rows<'_>) -> New {
    let mut copy = New::of(rows.count * rows.width);
    let out = copy.shared();
    each_rows(rows.count, rows.width, |first, count| {
        for i in first..first + count {
            out.part(i * rows.width, rows.width).copy_from_slice(rows.row(i));
        }
    });
    copy
}

/// A tensor whose numbers lie one after the other and are nobody else's: itself, or a copy.
pub fn own(tensor: FlexTensor) -> FlexTensor {
    let tensor = in_rows(tensor);
    let whole = tensor.as_slice::<f32>().is_some_and(|numbers| size_of_val(numbers) == tensor.bytes().len());
    if whole && tensor.is_unique() {
        return tensor;
    }
    copied(rows(&tensor)).tensor(tensor.layout().shape().clone())
}

/// The numbers of a tensor that [`dense`] gave.
///
/// # Panics
/// If it did not.
pub fn numbers(tensor: &FlexTensor) -> &[f32] {
    let Some(numbers) = tensor.as_slice() else { panic!("a dense tensor of f32, not {tensor:?}") };
    numbers
}

/// A tensor's sizes.
pub fn sizes(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// A tensor as rows along its last axis, at equal distances: a dense one, or a part of a wider one.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    numbers: &'a [f32],
    step: usize,
    /// How many rows.
    pub count: usize,
    /// Numbers per row.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// `None` if the tensor is no such thing.
    pub fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let (shape, strides) = (tensor.layout().shape(), tensor.layout().strides());
        let (&width, outer) = shape.split_last()?;
        if width == 0 || outer.contains(&0) || (strides[outer.len()] != 1 && width != 1) {
            return None;
        }
        // From the inside out: each axis must go on where the one inside it ends.
        let (mut step, mut count) = (width, 1);
        for (&size, &stride) in outer.iter().zip(strides).rev().filter(|(size, _)| **size != 1) {
            let stride = usize::try_from(stride).ok()?;
            if count == 1 {
                step = stride;
            } else if stride != step * count {
                return None;
            }
            count *= size;
        }
        let numbers = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
        Some(Self { numbers, step, count, width })
    }

    /// As a factor of a product.
    pub fn matrix(&self) -> Matrix<'a> {
        self.columns(0, self.width)
    }

    /// Some columns as a factor of a product.
    pub fn columns(&self, first: usize, count: usize) -> Matrix<'a> {
        Matrix::new(&self.numbers[first..], self.count, count, self.step)
    }

    /// # Panics
    /// If there are fewer rows.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.numbers[i * self.step..][..self.width]
    }
}

/// A tensor that [`Rows::of`] understands: itself, or a copy.
pub fn in_rows(tensor: FlexTensor) -> FlexTensor {
    if Rows::of(&tensor).is_some() { tensor } else { tensor.to_contiguous() }
}

/// The rows of a tensor that [`in_rows`] gave.
///
/// # Panics
/// If it did not.
pub fn rows(tensor: &FlexTensor) -> Rows<'_> {
    let Some(rows) = Rows::of(tensor) else { panic!("rows at equal distances, not {tensor:?}") };
    rows
}

/// Numbers to be written.
pub struct New<T = f32>(Vec<MaybeUninit<T>>);

impl New {
    /// Room for so many; what is in it is not defined until it is written.
    pub fn of(len: usize) -> Self {
        Self::room(len)
    }
}

impl<T: Element + Pod> New<T> {
    /// As [`New::of`], of numbers of any kind.
    pub fn room(len: usize) -> Self {
        let mut numbers = Vec::with_capacity(len);
        // SAFETY: the capacity is there, and `MaybeUninit` needs no value.
        #[allow(unsafe_code)]
        unsafe {
            numbers.set_len(len);
        }
        Self(numbers)
    }

    /// For tasks that write different parts at the same time.
    pub fn shared(&mut self) -> Shared<'_, T> {
        Shared { start: self.0.as_mut_ptr().cast(), len: self.0.len(), lifetime: PhantomData }
    }

    /// All of it.
    pub fn all(&mut self) -> &mut [T] {
        let len = self.0.len();
        // SAFETY: every bit pattern is a number, and callers write before they read.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len)
        }
    }

    /// What was written, as a tensor.
    pub fn tensor(self, shape: Shape) -> FlexTensor {
        self.strided(Layout::contiguous(shape))
    }

    /// What was written, as a tensor whose axes lie in another order.
    pub fn strided(self, layout: Layout) -> FlexTensor {
        let mut numbers = std::mem::ManuallyDrop::new(self.0);
        // SAFETY: the same memory under the type of what callers have written into it.
        #[allow(unsafe_code)]
        let numbers =
            unsafe { Vec::from_raw_parts(numbers.as_mut_ptr().cast::<T>(), numbers.len(), numbers.capacity()) };
        FlexTensor::new(Bytes::from_elems(numbers), layout, T::dtype())
    }
}

/// Numbers that several tasks write, each its own part.
pub struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a slice of numbers; which task writes what is the business of whoever calls `part`.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Of numbers that are there already.
    pub fn of(numbers: &'a mut [T]) -> Self {
        Self { start: numbers.as_mut_ptr(), len: numbers.len(), lifetime: PhantomData }
    }

    /// A part. No two tasks may hold parts that overlap.
    ///
    /// # Panics
    /// If there are fewer numbers.
    #[allow(clippy::mut_from_ref)]
    pub fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start} + {len} of {}", self.len);
        // SAFETY: inside the slice, as asserted; every caller in this crate cuts it into parts that do not overlap.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(start), len)
        }
    }
}
