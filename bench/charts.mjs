// Horizontal bars as SVG, for light and for dark pages.
import { median } from './statistics.mjs'
import { integer } from './table.mjs'

const WIDTH = 720
const ROW = 26
const LEFT = 150
const RIGHT = 170
const TOP = 44

const CHARTS = {
  'one-way': {
    suite: 'passing',
    workload: 'w2@1',
    title: 'Descriptors a second, one a message, both processes on one CPU'
  },
  'round-trips': {
    suite: 'passing',
    workload: 'w1@1',
    title: 'Round trips a second, a descriptor each way, both processes on one CPU'
  },
  batches: {
    suite: 'passing',
    workload: 'w3-64@1',
    title: 'Descriptors a second, 64 a message, both processes on one CPU'
  },
  connections: { suite: 'passing', workload: 'w4', title: 'TCP connections a second, handed to a worker' },
  messages: { suite: 'channel', workload: 'messages@1', title: 'Small messages a second, without a descriptor' }
}

/** By name, the charts of what was measured. */
export function charts(results) {
  const drawn = Object.entries(CHARTS).map(([name, { suite, workload, title }]) => {
    const rows = (results.suites[suite]?.rows ?? []).filter(
      (row) => row.workload === workload && row.perSecond !== undefined
    )
    const bars = [...new Set(rows.map(({ peer }) => peer))].map((peer) => {
      const own = rows.filter((row) => row.peer === peer)
      return {
        peer,
        value: median(own.map(({ perSecond }) => perSecond)),
        lost: Math.max(...own.map(({ lost = 0 }) => lost))
      }
    })
    return [
      name,
      bars.length === 0
        ? undefined
        : draw(
            title,
            bars.toSorted((a, b) => b.value - a.value)
          )
    ]
  })
  return Object.fromEntries(drawn.filter(([, svg]) => svg !== undefined))
}

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')

function draw(title, bars) {
  const most = bars[0].value
  const height = TOP + bars.length * ROW + 10
  const lines = bars.map(({ peer, value, lost }, index) => {
    const y = TOP + index * ROW
    const width = Math.max(1, Math.round((value / most) * (WIDTH - LEFT - RIGHT)))
    const isOurs = peer.startsWith('fdpass') || peer === 'channel'
    const label = `${integer(value)}${lost > 0 ? `, loses ${integer(lost)}` : ''}`
    return (
      `  <text x="${LEFT - 10}" y="${y + 16}" text-anchor="end"${isOurs ? ' class="ours"' : ''}>${escaped(peer)}</text>\n` +
      `  <rect x="${LEFT}" y="${y + 3}" width="${width}" height="${ROW - 8}" rx="3"${isOurs ? ' class="ours"' : ''}/>\n` +
      `  <text x="${LEFT + width + 8}" y="${y + 16}" class="value">${label}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
  <title>${escaped(title)}</title>
  <style>
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .title { font-size: 15px; font-weight: 600; }
    .value { fill: #59636e; }
    rect { fill: #9aa4af; }
    text.ours { font-weight: 600; }
    rect.ours { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .value { fill: #9198a1; }
      rect { fill: #57606a; }
      rect.ours { fill: #4493f8; }
    }
  </style>
  <text x="10" y="24" class="title">${escaped(title)}</text>
${lines.join('\n')}
</svg>
`
}
