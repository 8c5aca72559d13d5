"""Conditions over columns: what is true from when to when.

A condition is a function of time that is constant between *moments*: the times of samples of its
signals, and the times at which a `for`, a `missing` or a window makes it look again. It is decided
for a span of time at once, from after the last decided moment `h0` up to and with `h1`, as soon as
all samples of that span are there. What comes out does not depend on where spans end.

Most conditions stay what they are for a whole span, and are decided without looking at rows. Most
spans even change none, or few. A span is decided by the first of these that can:

- `calm`: signals that stay between the values at which something changes (`watch`) cost a look at
  the extremes of their samples. What hangs on the others is evaluated, and nothing else.
- All conditions of the group at once, as follows.

1. `batch`: the tables of a block as one flat array, with the least and greatest value of each row.
2. `bounds`: what every signal can be in the span (the held value and those extremes), and from that
   what every expression can be, for all conditions of a group by a few NumPy calls: false, unknown,
   true, or several of these. Bounds are never too narrow; an expression for which only one is
   possible has this value all the time.
3. `exact`: the others, as `Series`: the times at which a value can change, and the values from
   then on. Equal expressions of several conditions are computed once.

A `group` is all conditions that read the same buses; they are decided up to the same time. It holds
what is left of the past: the last sample of every signal, the timers of `for`, the edges, the
samples of `windows`, and the rows that cannot be decided yet.

Meanings that the words of the tree leave open:

- Time begins at the first look: the time of the first row that came from a bus of the condition.
  Before, nothing is true. A `for` over what is true without any sample counts from there.
- `for`, edges, `changed`, `missing` and `valid` are true or false, never unknown.
- An edge from unknown does not count up to and at the first sample of its operand's signals.
- Samples of one time that lie in several tables are in the order of bus, source and branch.
- A mean of whole numbers is that of the raw values, summed exactly, then scaled.
"""
