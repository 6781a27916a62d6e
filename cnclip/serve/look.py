"""The style of the page: system fonts, two columns of results on a phone, light and dark mode."""

from __future__ import annotations

from typing import Any

_FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "sans-serif",
)
_MONOSPACE = ("ui-monospace", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    """Gradio's base theme in red and gray, with fonts that every system has."""
    import gradio as gr

    cinnabar = gr.themes.Color(
        c50="#fdf4f1",
        c100="#fbe6df",
        c200="#f6cabe",
        c300="#eea592",
        c400="#e27a62",
        c500="#cf533a",
        c600="#b93f28",
        c700="#99321f",
        c800="#7d2c1e",
        c900="#68291e",
        c950="#38120c",
        name="cinnabar",
    )
    base = gr.themes.Base(
        primary_hue=cinnabar,
        secondary_hue=cinnabar,
        neutral_hue="stone",
        radius_size="lg",
        font=[gr.themes.Font(name) for name in _FONTS],
        font_mono=[gr.themes.Font(name) for name in _MONOSPACE],
    )
    return base.set(
        body_background_fill="#faf8f5",
        body_background_fill_dark="#171412",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
    )


CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; width: 100% }
.gradio-container .main.app { padding: 12px 20px 24px !important }
.gradio-container main { padding: 0 !important }
.gradio-container .html-container { padding: 0 !important }
.gradio-container header { display: flex; justify-content: space-between; align-items: flex-start;
  gap: 16px; padding-top: 8px }
.gradio-container header h1 { font-size: 26px; font-weight: 700; margin: 0; line-height: 1.3;
  color: var(--body-text-color) }
.gradio-container header p { margin: 2px 0 0; font-size: 15px;
  color: var(--body-text-color-subdued) !important }
.gradio-container header a { flex: none; margin-top: 4px; padding: 3px 14px; font-size: 14px;
  border: 1px solid var(--border-color-primary); border-radius: 99px;
  text-decoration: none !important; color: var(--body-text-color) !important;
  background: var(--block-background-fill) }
.gradio-container header a:hover { border-color: var(--primary-500) }
.gradio-container footer { display: block !important; margin: 16px 0 0; text-align: center;
  font-size: 13px; color: var(--body-text-color-subdued) !important }

#ask { flex-wrap: nowrap; gap: 10px; align-items: stretch }
#ask textarea { font-size: 17px; line-height: 1.5; padding: 12px 16px; border-radius: 12px;
  background: var(--block-background-fill) }
#ask button { border-radius: 12px; max-width: 140px; font-size: 17px }
#hint { margin-top: -8px }
#hint p { margin: 0 0 0 4px; font-size: 13px; color: var(--body-text-color-subdued) }
#examples { display: flex; flex-wrap: wrap; gap: 8px }
#examples button { flex: 0 0 auto; width: auto; min-width: 0 !important; padding: 4px 14px;
  font-weight: 400; font-size: 14px; border-radius: 99px; border: 1px solid
  var(--border-color-primary); background: var(--block-background-fill) }
#examples button:hover { border-color: var(--primary-500); color: var(--primary-600) }
.dark #examples button:hover { color: var(--primary-300) }
.gradio-container .block { border-radius: 12px }

#results, #shares { gap: 0; scroll-margin-top: 12px }
.note { margin: 0 0 10px !important; font-size: 14px; line-height: 1.5;
  color: var(--body-text-color-subdued) !important }
.note.cut, .note.warning { padding: 8px 14px; border-radius: 10px; color: #7a4a00 !important;
  background: #fff3d6; border: 1px solid #f2d48b; overflow-wrap: anywhere }
.dark .note.cut, .dark .note.warning { color: #ffd98a !important; background: #33270f;
  border-color: #5e4717 }

.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)) }
.tiles article { display: flex; flex-direction: column; min-width: 0; padding: 10px 10px 9px;
  border-radius: 12px; border: 1px solid var(--border-color-primary);
  background: var(--block-background-fill) }
.tiles b { margin-top: 8px; font-weight: 600; font-size: 14px; line-height: 1.35;
  overflow-wrap: anywhere; color: var(--body-text-color); display: -webkit-box;
  -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden }
.tiles q { quotes: none; flex: 1; font-size: 15px; line-height: 1.5; overflow-wrap: anywhere;
  color: var(--body-text-color) }
.tiles small { margin-top: 2px; font-size: 13px; font-variant-numeric: tabular-nums;
  color: var(--body-text-color-subdued) }
.tiles em { font-style: normal; color: var(--body-text-color) }
.tiles .reaches em { color: var(--primary-600); font-weight: 700 }
.dark .tiles .reaches em { color: var(--primary-400) }
.tiles label { display: block; cursor: zoom-in }
.tiles label input { position: absolute; opacity: 0; pointer-events: none }
.tiles img, .tiles .none { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  border-radius: 8px; margin: 0; background: white }
.tiles label input:focus-visible + img { outline: 2px solid var(--primary-500) }
.tiles label input:checked + img { position: fixed; inset: 0; z-index: 1000; width: 100vw;
  max-width: none; height: 100dvh; aspect-ratio: auto; border-radius: 0; padding: 5vmin;
  cursor: zoom-out; background: rgb(0 0 0 / 82%) }
.tiles .none { display: grid; place-items: center; padding: 8px; text-align: center;
  font-size: 13px; background: var(--background-fill-secondary);
  color: var(--body-text-color-subdued) }

.bars { list-style: none !important; margin: 4px 0 0 !important; padding: 0 !important;
  display: grid; gap: 14px }
.bars li { display: grid; grid-template-columns: 1fr auto; gap: 4px 12px; margin: 0;
  font-size: 15px; color: var(--body-text-color) }
.bars .name { overflow-wrap: anywhere; min-width: 0 }
.bars b { font-weight: 600; font-variant-numeric: tabular-nums; color: inherit }
.bars i { grid-column: 1 / -1; height: 8px; border-radius: 4px; background: var(--primary-500);
  opacity: .5 }
.bars li:first-child i { opacity: 1 }

@media (max-width: 640px) {
  .gradio-container .main.app { padding: 8px 12px 20px !important }
  .gradio-container header h1 { font-size: 22px }
  .gradio-container header p { font-size: 14px }
  .gradio-container header a { padding: 3px 11px }
  .tiles { gap: 10px; grid-template-columns: repeat(2, minmax(0, 1fr)) }
  #ask button { min-width: 76px !important; max-width: 92px; padding: 0 8px; font-size: 16px }
  #ask textarea { font-size: 16px; padding: 11px 12px }
  #image, #label-image { height: 150px !important }
  .source-selection { display: none !important }
}
"""
