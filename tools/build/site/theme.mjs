// The theme of the site: VitePress's own, and diagrams.
import DefaultTheme from 'vitepress/theme'
import { useData } from 'vitepress'
import { defineComponent, h, onMounted, ref, watch } from 'vue'

let count = 0

/** A diagram in mermaid's notation, drawn in the browser in the colours of the page. */
const Mermaid = defineComponent({
  props: { source: { type: String, required: true } },
  setup({ source }) {
    const { isDark } = useData()
    const svg = ref('')
    async function draw() {
      const { default: mermaid } = await import('mermaid')
      const font = getComputedStyle(document.body).fontFamily
      mermaid.initialize({
        startOnLoad: false,
        theme: isDark.value ? 'dark' : 'neutral',
        fontFamily: font,
        sequence: { useMaxWidth: true },
        flowchart: { useMaxWidth: true }
      })
      const drawn = await mermaid.render(`diagram-${count++}`, decodeURIComponent(source))
      svg.value = drawn.svg
    }
    onMounted(draw)
    watch(isDark, draw)
    return () =>
      svg.value === ''
        ? h('pre', { class: 'diagram' }, decodeURIComponent(source))
        : h('div', { class: 'diagram drawn', innerHTML: svg.value })
  }
})

export default {
  extends: DefaultTheme,
  enhanceApp({ app }) {
    app.component('Mermaid', Mermaid)
  }
}
