// Statistics, and the tables of RESULTS.md: a line for each peer, whose cells are made of its rows, one a round.
export const integer = (value) => Math.round(value).toLocaleString('en-US')
export const decimal = (digits) => (value) => value.toFixed(digits)
const ofKey = (rows, key) => rows.map((row) => row[key]).filter((value) => value !== undefined)

/** A column of medians. */
export function column(head, key, format = decimal(2)) {
  return {
    head,
    cell(rows) {
      const values = ofKey(rows, key)
      return values.length === 0 ? '' : format(median(values))
    }
  }
}

/** The slowest and the fastest round. */
export function spread(key, format = integer) {
  return {
    head: 'min..max',
    cell(rows) {
      const values = ofKey(rows, key)
      return `${format(Math.min(...values))}..${format(Math.max(...values))}`
    }
  }
}

/** The median over the median of the baseline in the same run. */
export function ratio(key, head) {
  return {
    head,
    cell(rows, baseline) {
      const ofBaseline = ofKey(baseline, key)
      return ofBaseline.length === 0 ? '' : (median(ofKey(rows, key)) / median(ofBaseline)).toFixed(2)
    }
  }
}

/** What was lost in the worst round. */
export const lost = {
  head: 'lost',
  cell: (rows) => integer(Math.max(...rows.map((row) => row.lost ?? 0)))
}

/** What passing programs report of the receiver's memory, and of what it had open in the end. */
export const memory = [
  column('RSS at the first, MB', 'firstRss', (kilobytes) => (kilobytes / 1024).toFixed(1)),
  column('peak RSS, MB', 'peakRss', (kilobytes) => (kilobytes / 1024).toFixed(1)),
  {
    head: 'grown by, MB',
    cell: (rows) => (median(rows.map(({ peakRss, firstRss }) => peakRss - firstRss)) / 1024).toFixed(1)
  },
  column('open at the end', 'open', integer)
]

const line = (cells) => `| ${cells.join(' | ')} |`

/** A table in Markdown; the first column is to the left, and the others to the right. */
export function table(heads, lines) {
  return [line(heads), line(heads.map((_, index) => (index === 0 ? '---' : '--:'))), ...lines.map(line)].join('\n')
}

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

export function quantile(values, fraction) {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * fraction))]
}

/** The slope of the line through these values, by least squares: per step. */
export function slope(values) {
  const middle = (values.length - 1) / 2
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  let over = 0
  let under = 0
  for (const [index, value] of values.entries()) {
    over += (index - middle) * (value - mean)
    under += (index - middle) ** 2
  }
  return over / under
}
